//! The form of a scrape, by what the client prefers.

/// Form of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Text,
    /// OpenMetrics 1.0, with exemplars.
    OpenMetrics,
    /// Prometheus protobuf, with native histograms and exemplars.
    Protobuf,
}

impl Format {
    /// The form a client prefers: the one its `Accept` gives most weight, the first of those with the same; text
    /// when it names none of them.
    pub fn negotiate(accept: Option<&str>) -> Format {
        let mut best = (0.0_f32, Format::Text);
        for part in accept.unwrap_or("").split(',') {
            let mut pieces = part.split(';').map(str::trim);
            let media = pieces.next().unwrap_or("");
            let parameters: Vec<&str> = pieces.collect();
            let parameter = |name: &str| {
                parameters
                    .iter()
                    .find_map(|piece| piece.strip_prefix(name)?.strip_prefix('='))
            };
            let format = match media {
                "text/plain" | "text/*" | "*/*" => Format::Text,
                "application/openmetrics-text" => Format::OpenMetrics,
                "application/vnd.google.protobuf"
                    if parameter("proto")
                        .is_none_or(|proto| proto == "io.prometheus.client.MetricFamily")
                        && parameter("encoding").is_none_or(|encoding| encoding == "delimited") =>
                {
                    Format::Protobuf
                }
                _ => continue,
            };
            let weight = parameter("q").map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            if weight > best.0 {
                best = (weight, format);
            }
        }
        best.1
    }

    /// Its media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn the_form_is_what_the_client_prefers() {
        for (accept, format) in [
            (None, Format::Text),
            (Some("*/*"), Format::Text),
            (Some("text/plain"), Format::Text),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            // What Prometheus 2.42 sends.
            (
                Some(
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                Format::OpenMetrics,
            ),
            // And with native histograms.
            (
                Some(
                    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                Format::Protobuf,
            ),
            (
                Some("application/vnd.google.protobuf;encoding=text"),
                Format::Text,
            ),
            (
                Some("application/openmetrics-text;q=0.2,text/plain;q=0.9"),
                Format::Text,
            ),
            (Some("application/openmetrics-text;q=0"), Format::Text),
            (Some("application/json"), Format::Text),
        ] {
            assert_eq!(Format::negotiate(accept), format, "{accept:?}");
        }
    }
}
