//! What this host has a limit on that connections run into, and how much of it is used, as the kernel tells. Namespaced
//! figures are those of the agent's network namespace.

use crate::probe_report::LimitReport;

/// Every limit that there is: conntrack has none where it is not loaded.
pub fn read() -> Vec<LimitReport> {
    let file = |path: &str| std::fs::read_to_string(path).ok();
    of(file, rustix::param::page_size() as u64)
}

fn of(file: impl Fn(&str) -> Option<String>, page: u64) -> Vec<LimitReport> {
    let number =
        |path: &str, field: usize| -> Option<u64> { file(path)?.split_whitespace().nth(field)?.parse().ok() };
    let sockets = |protocol: &str, name: &str| -> Option<u64> {
        // Not /proc/net: that is the view of the process's first thread.
        let text = file("/proc/thread-self/net/sockstat")?;
        let mut words = text
            .lines()
            .find_map(|line| line.strip_prefix(protocol))?
            .split_whitespace();
        words.find(|word| *word == name)?;
        words.next()?.parse().ok()
    };
    let pages = |count: Option<u64>| Some(count?.saturating_mul(page));
    [
        (
            "conntrack_entries",
            number("/proc/sys/net/netfilter/nf_conntrack_count", 0),
            number("/proc/sys/net/netfilter/nf_conntrack_max", 0),
        ),
        (
            "open_files",
            number("/proc/sys/fs/file-nr", 0),
            // Newer kernels have no limit, and say so by the largest number there is.
            number("/proc/sys/fs/file-nr", 2).filter(|most| *most < i64::MAX as u64),
        ),
        (
            "tcp_memory_bytes",
            pages(sockets("TCP:", "mem")),
            pages(number("/proc/sys/net/ipv4/tcp_mem", 2)),
        ),
        (
            "tcp_orphans",
            sockets("TCP:", "orphan"),
            number("/proc/sys/net/ipv4/tcp_max_orphans", 0),
        ),
        (
            "tcp_time_wait",
            sockets("TCP:", "tw"),
            number("/proc/sys/net/ipv4/tcp_max_tw_buckets", 0),
        ),
        (
            "udp_memory_bytes",
            pages(sockets("UDP:", "mem")),
            pages(number("/proc/sys/net/ipv4/udp_mem", 2)),
        ),
    ]
    .into_iter()
    .filter_map(|(what, used, limit)| {
        Some(LimitReport {
            what: what.to_owned(),
            used: used?,
            limit: limit?,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_with_what_is_used_of_them() {
        let file = |path: &str| {
            let text = match path {
                "/proc/thread-self/net/sockstat" => {
                    "sockets: used 290\nTCP: inuse 5 orphan 3 tw 7 alloc 8 mem 2\nUDP: inuse 1 mem 4\nUDPLITE: inuse 0\n"
                }
                "/proc/sys/fs/file-nr" => "1024\t0\t9223372036854775807\n",
                "/proc/sys/net/ipv4/tcp_mem" => "10\t20\t30\n",
                "/proc/sys/net/ipv4/tcp_max_orphans" => "100\n",
                "/proc/sys/net/ipv4/tcp_max_tw_buckets" => "200\n",
                "/proc/sys/net/ipv4/udp_mem" => "1\t2\t40\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let told: Vec<_> = of(file, 4096)
            .into_iter()
            .map(|limit| (limit.what, limit.used, limit.limit))
            .collect();
        let expected = [
            ("tcp_memory_bytes", 2 * 4096, 30 * 4096),
            ("tcp_orphans", 3, 100),
            ("tcp_time_wait", 7, 200),
            ("udp_memory_bytes", 4 * 4096, 40 * 4096),
        ];
        assert_eq!(
            told,
            expected.map(|(what, used, limit)| (what.to_owned(), used, limit))
        );
    }

    #[test]
    fn this_host_has_limits() {
        let names: Vec<_> = read().into_iter().map(|limit| limit.what).collect();
        for name in ["tcp_memory_bytes", "tcp_orphans", "tcp_time_wait"] {
            assert!(names.iter().any(|known| known == name), "{name} of {names:?}");
        }
    }
}
