//! The other clients, the locks that each shares with us, and where each is known to differ.

use crate::scene::Lock::{self, ConfigMap, ConfigMapsLeases, Endpoints, EndpointsLeases, Lease};

/// A client of another kind, as its contender in `tests/peers/<language>/` uses it.
pub struct Peer {
    /// Its executable.
    pub name: &'static str,
    pub locks: &'static [Lock],
    pub release: Release,
    pub notices: Notices,
    /// It takes a lock whose renewal was long ago by its own clock.
    pub trusts_clocks: bool,
    /// It cannot create the lock, so that has to be there.
    pub wants_lock: bool,
    /// Why it may stop leading though nothing is wrong.
    pub gives_up: Option<&'static str>,
    /// Why two children may meet, where that is its fault; then also we may lose the lock.
    pub overlaps: Option<&'static str>,
}

/// What it leaves of the lock when it stops leading.
pub enum Release {
    /// Nobody's: the next one leads at once.
    Frees,
    /// Still its own, but for this many seconds only.
    Shortens(u64),
    /// All as it was: the next one waits for the lease to end.
    Never,
}

/// When it takes a lock that is not held any more.
pub enum Notices {
    /// When it polls next.
    Polling,
    /// It looks when the lease that it last saw is over, and at nothing before.
    Expiry,
    /// When the lock is deleted, once it has looked so often.
    Deletion { after: usize },
}

const PEER: Peer = Peer {
    name: "",
    locks: &[],
    release: Release::Frees,
    notices: Notices::Polling,
    trusts_clocks: false,
    wants_lock: false,
    gives_up: None,
    overlaps: None,
};

pub const PEERS: &[Peer] = &[
    Peer { name: "client-go", locks: &[Lease], ..PEER },
    Peer { name: "client-go-0.26", locks: &[ConfigMapsLeases, EndpointsLeases], ..PEER },
    Peer { name: "client-go-0.23", locks: &[ConfigMap, Endpoints], ..PEER },
    Peer { name: "python", locks: &[Lease, ConfigMap], release: Release::Never, ..PEER },
    // It dies of a request to create that its own client finds invalid.
    Peer { name: "python-asyncio", locks: &[Lease], release: Release::Never, wants_lock: true, ..PEER },
    Peer { name: "fabric8", locks: &[Lease], release: Release::Shortens(1), trusts_clocks: true, ..PEER },
    Peer {
        name: "node",
        locks: &[Lease],
        notices: Notices::Deletion { after: 3 },
        trusts_clocks: true,
        gives_up: Some("it may take what was written before its own term for a loss"),
        ..PEER
    },
    Peer { name: "kubert", locks: &[Lease], notices: Notices::Expiry, trusts_clocks: true, wants_lock: true, ..PEER },
    Peer {
        name: "kube-leader-election",
        locks: &[Lease],
        trusts_clocks: true,
        overlaps: Some("it takes over with a patch that names no version"),
        ..PEER
    },
];

/// The one of this name.
pub fn peer(name: &str) -> &'static Peer {
    PEERS.iter().find(|peer| peer.name == name).expect("in the table")
}

impl Peer {
    /// Its documented limits, in words.
    pub fn limits(&self) -> String {
        let release = match self.release {
            Release::Frees => None,
            Release::Shortens(_) => Some("its release keeps the holder, with a lease duration of 1 s"),
            Release::Never => Some("it has no release"),
        };
        let notices = match self.notices {
            Notices::Polling => None,
            Notices::Expiry => Some("it notices a release only when the lease that it saw is over"),
            Notices::Deletion { .. } => Some("it takes over only when the lock is deleted"),
        };
        let clocks = self.trusts_clocks.then_some("it trusts wall clocks");
        let wants_lock = self.wants_lock.then_some("the lock has to exist");
        let limits = [release, notices, clocks, wants_lock, self.gives_up, self.overlaps]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>();
        if limits.is_empty() { "none".into() } else { limits.join("; ") }
    }
}
