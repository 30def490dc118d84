use super::*;

fn file(text: &str) -> Result<Config, ConfigError> {
    Loaded::from_layers(Profile::Production, "np.toml", text, []).map(|loaded| loaded.config)
}

fn with(variables: &[(&str, &str)], text: &str) -> Result<Config, ConfigError> {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Loaded::from_layers(Profile::Production, "np.toml", text, variables).map(|loaded| loaded.config)
}

#[test]
fn the_shipped_file_has_every_key_and_the_defaults() {
    const SHIPPED: &str = include_str!("../../netprobe.default.toml");
    const PAGE: &str = include_str!("../../../docs/configuration.md");
    let text = default_file();
    assert!(text == SHIPPED && page() == PAGE, "run `cargo xtask docs`");
    assert_eq!(file(&text).unwrap(), Config::default());
    let shipped: toml::Table = toml::from_str(&text).unwrap();
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    let keys = |table: &toml::Table| {
        let sections = table.iter();
        let all = sections.flat_map(|(section, values)| {
            values
                .as_table()
                .unwrap()
                .keys()
                .map(move |key| format!("{section}.{key}"))
        });
        all.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(keys(&shipped), keys(&defaults));
    let lines: Vec<_> = text.lines().collect();
    for (index, line) in lines.iter().enumerate().skip(1) {
        if !line.is_empty() && !line.starts_with('#') {
            assert!(
                lines[index - 1].starts_with('#'),
                "line {} has no comment: {line}",
                index + 1
            );
        }
    }
}

#[test]
fn layers_win_in_their_order() {
    let text = "[flow]\nopen_after = \"2s\"\nudp_idle = \"5s\"\n";
    let variables = [("NETPROBE_FLOW_UDP_IDLE".to_owned(), "7s".to_owned())];
    let loaded = Loaded::from_layers(Profile::Dev, "np.toml", text, variables).unwrap();
    let config = &loaded.config;
    assert_eq!(config.flow.update_every, Period::seconds(2), "profile");
    assert_eq!(config.flow.open_after, Period::seconds(2), "file");
    assert_eq!(config.flow.udp_idle, Period::seconds(7), "environment");
    assert_eq!(config.flow.max_flows, 1_000_000, "default");
    assert_eq!(config.log.format, LogFormat::Text, "profile");
    let source = |section, key| loaded.source(section, key).to_string();
    assert_eq!(source("flow", "update_every"), "profile dev");
    assert_eq!(source("flow", "open_after"), "np.toml, line 2");
    assert_eq!(
        source("flow", "udp_idle"),
        "environment variable NETPROBE_FLOW_UDP_IDLE"
    );
    assert_eq!(source("flow", "max_flows"), "default");
}

#[test]
fn variables_take_every_shape() {
    let config = with(
        &[
            ("NETPROBE_PROBE_PORTS_ONLY", "80, 443"),
            ("NETPROBE_PROBE_CIDRS_EXCEPT", "10.0.0.0/8,::1/128"),
            ("NETPROBE_PROBE_METHODS", "nat=ctnetlink,accept=sys_exit"),
            ("NETPROBE_PROBE_RING_BYTES", "65536"),
            ("NETPROBE_PROBE_UDP", "false"),
            ("NETPROBE_METRICS_PEERS", "10.0.0.0/8=inside"),
            ("NETPROBE_API_LISTEN", "[::1]:1"),
            ("NETPROBE_LOG_LEVEL", "trace"),
            ("NETPROBE_SOMETHING_ELSE", "is left alone"),
        ],
        "",
    )
    .unwrap();
    assert_eq!(config.probe.ports_only, [80, 443]);
    assert_eq!(config.probe.cidrs_except.len(), 2);
    assert_eq!(config.probe.methods["nat"], "ctnetlink");
    assert_eq!(config.probe.ring_bytes.get(), 65_536);
    assert!(!config.probe.udp);
    assert_eq!(config.metrics.peers.values().collect::<Vec<_>>(), ["inside"]);
    assert_eq!(config.api.listen.port(), 1);
    assert_eq!(config.log.level, LogLevel::Trace);
}

#[test]
fn every_key_can_be_set_by_a_variable() {
    for (section, values) in toml::Table::try_from(Config::default()).unwrap() {
        for (key, value) in values.as_table().unwrap() {
            let text = match value {
                toml::Value::String(text) => text.clone(),
                toml::Value::Array(list) => {
                    let items = list.iter().filter_map(toml::Value::as_str);
                    items.collect::<Vec<_>>().join(",")
                }
                toml::Value::Table(_) => String::new(),
                value => value.to_string(),
            };
            let variable = format!("NETPROBE_{section}_{key}").to_uppercase();
            assert_eq!(
                with(&[(&variable, &text)], "").unwrap(),
                Config::default(),
                "{variable}"
            );
        }
    }
}

#[test]
fn errors_say_where_and_what_is_allowed() {
    for (text, message) in [
        (
            "[probe]\nring_bytes = 65537\n",
            "np.toml, line 2, probe.ring_bytes: 65537 is not allowed; a ring is a power of two from 65536 to 1073741824 bytes",
        ),
        (
            "[probe]\n\ndrain_interval = \"2s\"\n",
            "np.toml, line 3, probe.drain_interval: `2s` is out of range; allowed is 1ms to 1s",
        ),
        (
            "[flow]\nopen_after = \"soon\"\n",
            "np.toml, line 2, flow.open_after: `soon` is not a duration; write a number and a unit, like 10ms, 30s, 5m or 1h",
        ),
        (
            "[log]\nlevel = \"loud\"\n",
            "np.toml, line 2, log.level: unknown variant `loud`, expected one of `error`, `warn`, `info`, `debug`, `trace`",
        ),
        (
            "[flow]\nmax_flows = 0\n",
            "np.toml, line 2, flow.max_flows: 0 is not allowed; at least 1 is",
        ),
        (
            "[api]\ntls_cert = \"a\"\ntls_key = \"b\"\nlisten = \"0.0.0.0:80\"\n",
            "np.toml, line 4, api.listen: `0.0.0.0:80` is not a loopback address, which needs TLS and a token: set \
             api.tls_cert, api.tls_key and api.tokens, or listen on 127.0.0.1 or [::1]",
        ),
        (
            "[api]\ntls_key = \"b\"\n",
            "np.toml, line 2, api.tls_key: needs api.tls_cert; set both or none",
        ),
        (
            "[api]\ntls_client_ca = \"b\"\n",
            "np.toml, line 2, api.tls_client_ca: needs TLS; set api.tls_cert and api.tls_key",
        ),
        (
            "[api.tokens]\ngrafana = \"npt_secret\"\n",
            "np.toml, line 2, api.tokens.grafana: this is no hash of a token; `netprobe token new` makes a token and \
             prints its hash",
        ),
        (
            "[api]\nrate_limit = 0\n",
            "np.toml, line 2, api.rate_limit: 0 is not allowed; at least 1 is",
        ),
        (
            "[log]\ncolour = true\n",
            "np.toml, line 2, log.colour: unknown field `colour`, expected one of `level`, `format`, `targets`, `max_repeats`",
        ),
        (
            "[lag]\nlevel = 1\n",
            "np.toml, line 1: unknown field `lag`, expected one of `probe`, `flow`, `requests`, `metrics`, `api`, `stream`, `archive`, `kafka`, `log`",
        ),
        (
            "[probe]\ncidrs_only = [\n  \"10.0.0.0/8\",\n  \"10.1.0.0/16\",\n]\n",
            "np.toml, line 2, probe.cidrs_only: `10.1.0.0/16` lies within `10.0.0.0/8`; leave one of them out",
        ),
        (
            "[probe]\ncidrs_except = [\n  \"::/0\",\n  \"10.1.0.0\",\n]\n",
            "np.toml, line 4, probe.cidrs_except: invalid IP address syntax",
        ),
        (
            "[probe]\ncidrs_except = [\"10.1.0.0/8\"]\n",
            "np.toml, line 2, probe.cidrs_except: `10.1.0.0/8` has bits set behind its prefix; write 10.0.0.0/8",
        ),
        (
            "[flow]\nmax_flows = \"many\"\n",
            "np.toml, line 2, flow.max_flows: invalid type: string \"many\", expected usize",
        ),
        (
            "[metrics]\npeers = { \"10.1.2.3/24\" = \"db\" }\n",
            "np.toml, line 2, metrics.peers: `10.1.2.3/24` has bits set behind its prefix; write 10.1.2.0/24",
        ),
        (
            "[flow]\nupdate_share = 1.5\n",
            "np.toml, line 2, flow.update_share: a share is 0 to 1, not 1.5",
        ),
        (
            "[probe]\nports_only = [1]\nports_except = [2]\n",
            "np.toml, line 3, probe.ports_except: not together with probe.ports_only; leave one of them empty",
        ),
    ] {
        assert_eq!(file(text).unwrap_err().to_string(), message);
    }
}

#[test]
fn errors_of_variables_name_the_variable() {
    for (variable, text, message) in [
        (
            "NETPROBE_LOG_COLOUR",
            "x",
            "environment variable NETPROBE_LOG_COLOUR, log.colour: there is no such key; allowed are format, level, max_repeats, targets",
        ),
        (
            "NETPROBE_FLOW_MAX_FLOWS",
            "many",
            "environment variable NETPROBE_FLOW_MAX_FLOWS, flow.max_flows: `many` is not a whole number",
        ),
        (
            "NETPROBE_FLOW_MAX_FLOWS",
            "0",
            "environment variable NETPROBE_FLOW_MAX_FLOWS, flow.max_flows: 0 is not allowed; at least 1 is",
        ),
        (
            "NETPROBE_PROBE_METHODS",
            "nat",
            "environment variable NETPROBE_PROBE_METHODS, probe.methods: `nat` is not a pair; write name=value,name=value",
        ),
    ] {
        assert_eq!(with(&[(variable, text)], "").unwrap_err().to_string(), message);
    }
    let error = with(
        &[("NETPROBE_PROBE_PORTS_ONLY", "1")],
        "[probe]\nports_except = [2]\n",
    )
    .unwrap_err();
    assert!(error.to_string().contains("probe.ports_only"), "{error}");
}

#[test]
fn a_named_file_must_exist() {
    let error = Loaded::read(Profile::Production, Some("/nowhere/np.toml".as_ref()), []).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot read the configuration file /nowhere/np.toml")
    );
}

#[test]
fn what_is_shown_reads_back_and_names_sources() {
    let text = "[metrics]\npeers = { \"10.0.0.0/8\" = \"inside\", \"::1/128\" = \"self\" }\n\n[probe.methods]\nnat = \"ctnetlink\"\n";
    let loaded = Loaded::from_layers(Profile::Dev, "np.toml", text, []).unwrap();
    let shown = loaded.show();
    assert_eq!(file(&shown).unwrap(), loaded.config);
    for line in [
        "peers = { \"10.0.0.0/8\" = \"inside\", \"::1/128\" = \"self\" }  # np.toml, line 2",
        "methods = { nat = \"ctnetlink\" }  # np.toml, line 4",
        "format = \"text\"  # profile dev",
        "max_flows = 1000000",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}:\n{shown}");
    }
}
