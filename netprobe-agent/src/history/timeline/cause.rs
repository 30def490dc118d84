//! What can be wrong, as the kernel and the requests show it.

use serde::{Deserialize, Serialize};

/// What is counted together, to know how much of it went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::history) enum Class {
    /// Connects.
    Connect,
    /// Ends of connections.
    End,
    /// Requests.
    Request,
}

/// How many classes there are.
pub(in crate::history) const CLASSES: usize = 3;

/// Declares the causes: value, class, and what it means, in words of [`Cause::meaning`].
macro_rules! causes {
    ($($(#[$doc:meta])* $value:ident $class:ident $meaning:literal,)*) => {
        /// What went wrong.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum Cause {
            $($(#[$doc])* $value,)*
        }

        impl Cause {
            /// What it says about where to look, without its subject.
            pub const fn meaning(self) -> &'static str {
                match self { $(Cause::$value => $meaning,)* }
            }

            pub(in crate::history) const fn class(self) -> Class {
                match self { $(Cause::$value => Class::$class,)* }
            }
        }
    };
}

causes! {
    /// Connects refused.
    Refused Connect "the host answered that nobody listens there: the service was stopped, or listens elsewhere",
    /// Connects without a way.
    Unreachable Connect "no route, or a host or firewall on the way that said so",
    /// Connects nobody answered.
    Unanswered Connect "every SYN was in vain: host down, link down, a firewall that drops, or a full accept queue",
    /// Connects that failed otherwise.
    ConnectFailed Connect "the connect failed by itself: ports, addresses or rights of the client's side",
    /// Established after SYN retransmits.
    SynLoss Connect "SYNs or their answers were lost: a lossy link, or an accept queue that is full at times",
    /// Waited for a second and more to be accepted, or never were.
    AcceptQueue Connect "the service did not accept in time: it is overloaded, or stands still",
    /// Established connections that timed out.
    TimedOut End "the other side fell silent: host or link down, state of a firewall or translation gone",
    /// Reset by the other side.
    ResetByPeer End "the other side ended it by a reset: it crashed, was overloaded, or closed with data unread",
    /// Reset by this side with data lost.
    ResetHere End "this side ended it by a reset, with data unread or not acknowledged",
    /// Bursts of retransmits.
    Retransmits End "segments were lost on the way: a lossy or full link",
    /// Requests that were not answered.
    NotAnswered Request "the connection ended, or time ran out, before a whole answer",
    /// Requests answered by 5xx, or a failed look-up.
    ServerError Request "the service answered that it cannot: look there, or at what it depends on",
    /// Requests whose first byte came late.
    SlowFirstByte Request "the service took its time: it is overloaded, or waits for what it depends on",
}

impl Cause {
    /// Its name in JSON.
    pub fn name(self) -> String {
        let name = serde_json::to_value(self).ok();
        name.and_then(|name| name.as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}
