//! Brokers behind TLS that the agent has no reason to trust.

use netprobe_agent::probe_report::Circuit;

use super::{
    lab::{Lab, TOPIC},
    terminator::Terminator,
};

/// A certificate that has expired, and one of an authority that is not known: told as what they are, and nothing is lost.
#[test]
fn a_certificate_that_is_wrong_is_named() {
    for (year, trusted) in [(2020, true), (4000, false)] {
        let lab = Lab::new();
        let address = lab.brokers().parse().expect("an address");
        let server = Terminator::start(address, year);
        let authority = match trusted {
            true => server.certificate(),
            false => Terminator::start(address, 4000).certificate(),
        };
        let ca = lab.folder.path().join("ca.pem");
        std::fs::write(&ca, authority).unwrap();
        let mut agent = lab.start(1, |_, kafka| {
            kafka.brokers = vec![server.endpoint().replace("https://", "")];
            kafka.tls = true;
            kafka.ca = ca;
        });
        agent.emit(10);
        agent.until("the cause", |agent| {
            let error = agent.kafka.report().last_error.unwrap_or_default();
            error.contains("certificate")
        });
        assert_eq!(agent.kafka.report().circuit, Circuit::Open);
        let ledger = agent.stop();
        assert_eq!((ledger.delivered, ledger.queued), (0, 10));
        // Set right, the next run goes on.
        let agent = lab.start(2, |_, _| {});
        agent.until("what was left", |agent| {
            agent.kafka.report().messages["delivered"] == 10
        });
        agent.stop();
        assert_eq!(lab.consume(&[TOPIC], 10).len(), 10);
    }
}
