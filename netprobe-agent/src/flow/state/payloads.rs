//! Payload of connections, handed to whoever reads requests, with the connections it belongs to.

use super::{
    super::{
        live::Live,
        payload::{Flows, Reader, Sampling},
    },
    State,
};
use crate::kernel::libssl::Library;

impl State {
    /// Has a reader look at what connections carry.
    pub fn read_requests(&mut self, reader: Box<dyn Reader>, sampling: Sampling) {
        self.reader = Some(reader);
        self.sampling = sampling;
    }

    /// The reader of requests, if there is one.
    pub fn reader(&self) -> Option<&dyn Reader> {
        self.reader.as_deref()
    }

    /// TLS libraries that are to be read from now on.
    pub fn met_libraries(&mut self) -> Vec<Library> {
        self.reader
            .as_mut()
            .map_or_else(Vec::new, |reader| reader.met_libraries())
    }

    /// Lets the reader work, with the table. `ending`: a connection that was just taken out of it.
    pub(super) fn with_reader(
        &mut self,
        ending: Option<&Live>,
        work: impl FnOnce(&mut dyn Reader, &mut Flows<'_>),
    ) {
        let sampling = Sampling {
            shed: self.sheds("requests"),
            ..self.sampling
        };
        let State {
            reader: Some(reader),
            table,
            udp,
            observer,
            maker,
            fanout,
            ..
        } = self
        else {
            return;
        };
        let mut flows = Flows {
            table,
            udp: &udp.live,
            ending,
            observer: &**observer,
            maker,
            sampling,
            fanout,
        };
        work(&mut **reader, &mut flows);
    }
}
