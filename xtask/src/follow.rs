//! Reading a program's output line by line, with a limit on silence.

use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// Why there are no more lines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended<T> {
    /// The reader of lines had enough.
    Told(T),
    /// The output was closed.
    Closed,
    /// Nothing came for the whole limit.
    Silent,
}

/// Hands every line to `each` as it comes, without its line ending.
pub(crate) fn lines<T>(
    output: impl Read + Send + 'static,
    silence: Duration,
    mut each: impl FnMut(String) -> ControlFlow<T>,
) -> Ended<T> {
    let (send, received) = mpsc::channel();
    // Ends with the output, or with the first line nobody waits for.
    std::thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line)
                .trim_end_matches(['\r', '\n'])
                .to_owned();
            if send.send(text).is_err() {
                break;
            }
            line.clear();
        }
    });
    loop {
        match received.recv_timeout(silence) {
            Ok(line) => {
                if let ControlFlow::Break(told) = each(line) {
                    return Ended::Told(told);
                }
            }
            Err(RecvTimeoutError::Timeout) => return Ended::Silent,
            Err(RecvTimeoutError::Disconnected) => return Ended::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_without_their_endings_then_the_output_closes() {
        let mut seen = Vec::new();
        let ended = lines::<()>(&b"one\r\ntwo\nlast"[..], Duration::from_secs(5), |line| {
            seen.push(line);
            ControlFlow::Continue(())
        });
        assert_eq!(
            (ended, seen),
            (Ended::Closed, ["one", "two", "last"].map(str::to_owned).to_vec())
        );
    }

    #[test]
    fn silence_ends_the_wait() {
        let (reader, writer) = std::io::pipe().unwrap();
        let ended = lines::<()>(reader, Duration::from_millis(20), |_| ControlFlow::Continue(()));
        assert_eq!(ended, Ended::Silent);
        drop(writer);
    }
}
