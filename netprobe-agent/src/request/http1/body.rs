//! Bodies of HTTP/1 messages: followed to their end, not looked at.

use super::Rest;

/// Longest chunk header or trailer line.
const LONGEST_LINE: u32 = 8 << 10;

/// A body, up to where it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes are left.
    Length(u64),
    /// Chunks.
    Chunked { at: Chunk, line: u32 },
    /// As long as the connection.
    UntilClose,
}

/// A place in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// In the digits of a size.
    Size { value: u64, digits: u8 },
    /// Behind them, up to the end of the line.
    Extension { value: u64 },
    /// So many bytes of data are left.
    Data(u64),
    /// At the line end behind the data, of which so many bytes are left.
    DataEnd(u8),
    /// In a line of the trailer that has something (`true`) or nothing yet.
    Trailer(bool),
}

/// What reading on gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It goes on.
    More,
    /// It is complete.
    End,
    /// What says where it ends was not captured.
    Lost,
    /// Chunks that are none.
    Malformed,
}

impl Body {
    pub(super) const fn chunked() -> Body {
        Body::Chunked {
            at: Chunk::Size { value: 0, digits: 0 },
            line: 0,
        }
    }

    /// Takes what belongs to it.
    pub(super) fn read(&mut self, rest: &mut Rest<'_>) -> Outcome {
        match self {
            Body::Length(left) => {
                *left -= rest.take(*left);
                if *left == 0 { Outcome::End } else { Outcome::More }
            }
            Body::UntilClose => {
                rest.take(u64::MAX);
                Outcome::More
            }
            Body::Chunked { at, line } => chunks(at, line, rest),
        }
    }
}

fn chunks(at: &mut Chunk, line: &mut u32, rest: &mut Rest<'_>) -> Outcome {
    loop {
        if let Chunk::Data(left) = at {
            *left -= rest.take(*left);
            if *left > 0 {
                return Outcome::More;
            }
            *at = Chunk::DataEnd(2);
        }
        if let Chunk::DataEnd(left) = at
            && rest.bytes.is_empty()
        {
            // It need not be seen to be passed.
            *left -= rest.take(u64::from(*left)) as u8;
            if *left == 0 {
                *at = Chunk::Size { value: 0, digits: 0 };
            }
        }
        let Some(byte) = rest.byte() else {
            return if rest.is_empty() {
                Outcome::More
            } else {
                Outcome::Lost
            };
        };
        *line += 1;
        if *line > LONGEST_LINE {
            return Outcome::Malformed;
        }
        let ends = byte == b'\n';
        if ends {
            *line = 0;
        }
        *at = match *at {
            Chunk::Size { value, digits } => match char::from(byte).to_digit(16) {
                // 15 digits are more than any body, and do not overflow.
                Some(digit) if digits < 15 => Chunk::Size {
                    value: value << 4 | u64::from(digit),
                    digits: digits + 1,
                },
                None if digits == 0 => return Outcome::Malformed,
                None if ends => behind_size(value),
                None if b"\r ;\t".contains(&byte) => Chunk::Extension { value },
                _ => return Outcome::Malformed,
            },
            Chunk::Extension { value } if ends => behind_size(value),
            Chunk::Extension { value } => Chunk::Extension { value },
            Chunk::DataEnd(_) if ends => Chunk::Size { value: 0, digits: 0 },
            Chunk::DataEnd(2) if byte == b'\r' => Chunk::DataEnd(1),
            Chunk::DataEnd(_) => return Outcome::Malformed,
            Chunk::Trailer(true) if ends => Chunk::Trailer(false),
            Chunk::Trailer(false) if ends => return Outcome::End,
            Chunk::Trailer(something) => Chunk::Trailer(something || byte != b'\r'),
            Chunk::Data(left) => Chunk::Data(left),
        };
    }
}

const fn behind_size(value: u64) -> Chunk {
    if value == 0 {
        Chunk::Trailer(false)
    } else {
        Chunk::Data(value)
    }
}
