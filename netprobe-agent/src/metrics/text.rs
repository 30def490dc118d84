//! The two forms of a scrape.

/// Form of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The form a client prefers: OpenMetrics when its `Accept` names it with more weight than plain text.
    pub fn negotiate(accept: Option<&str>) -> Format {
        let mut best = [0.0_f32; 2];
        for part in accept.unwrap_or("").split(',') {
            let mut pieces = part.split(';').map(str::trim);
            let slot = match pieces.next() {
                Some("text/plain" | "text/*" | "*/*" | "") | None => 0,
                Some("application/openmetrics-text") => 1,
                Some(_) => continue,
            };
            let weight = pieces
                .find_map(|piece| piece.strip_prefix("q="))
                .map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            if weight > best[slot] {
                best[slot] = weight;
            }
        }
        if best[1] > best[0] {
            Format::OpenMetrics
        } else {
            Format::Text
        }
    }

    /// Its media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Rewrites OpenMetrics as text 0.0.4: there the family of a counter is named with `_total`, the family of an info
/// is a gauge named with `_info`, and there are no units and no end mark.
pub(super) fn classic(page: &str) -> String {
    let mut text = String::with_capacity(page.len() + page.len() / 16);
    let mut help: Option<(&str, &str)> = None;
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').or(Some((rest, "")));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            if let Some((_, words)) = help.take_if(|(of, _)| *of == name) {
                text.extend(["# HELP ", name, suffix, " ", words, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}
