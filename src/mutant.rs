//! Known mistakes, to prove that the tests would notice them: each breaks one rule of the design.
//!
//! They are compiled in only with the feature `mutants`, which tests have and releases do not, and chosen at
//! run time: by `choose` in a simulation, by `LEADER_RUN_MUTANT=name` for the binary.

/// One broken rule each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The tree is killed two seconds after K.
    KillTooLate,
    /// S is the moment of the response.
    CountedFromResponse,
    /// Two renewals may carry the same whole second.
    SameSecond,
    /// The lock is given back when the child has ended, whatever else is alive.
    ReleaseBeforeGone,
    /// A lost lock is given back.
    ReleaseAfterLoss,
    /// The guard counts its deadlines from when it hears of them.
    RelativeDeadlines,
    /// A record with our name is ours, whoever wrote it.
    OurNameIsOurs,
    /// A success that comes after S+R keeps leadership.
    LateSuccess,
    /// A write on a version that is no longer the latest is made again on the latest.
    UnconditionalPut,
    /// A lock that was held and is deleted is created at once.
    EarlyCreate,
    /// A standby counts the lease from the time in the record.
    RecordsRenewTime,
    /// The guard goes on when leader-run is dead.
    IgnoresEndOfFile,
    /// An expiry of one term is still one in the next.
    LatchKept,
    /// A signal or `--wait` ends an acquiring write without waiting for its answer.
    AbandonedWrite,
    /// A write that was not answered counts as failed once a get shows the version that it was to replace.
    UnclearSettledByGet,
    /// A lock whose record is entirely empty is restored whatever showed it, also a get.
    BlankRestored,
    /// A record that does not count its transitions counts as one with ours.
    MissingCountIsOurs,
    /// The page of a proxy (404, 409) counts as the API server's conflict.
    PageIsConflict,
    /// The child does not look at the clock before it executes COMMAND.
    NoLookBeforeExec,
    /// A child that came too late counts as one that could not be started.
    LateIsFailed,
    /// The lock of a leader-run that has died is given back while its tree lives.
    CrashReleaseBeforeGone,
    /// No rule is broken, but the elector panics when the lock has been renewed for the first time. Not for
    /// simulations.
    Panics,
}

impl Mutant {
    /// All of them, by name.
    pub const ALL: [(&str, Mutant); 21] = [
        ("kill-too-late", Mutant::KillTooLate),
        ("counted-from-response", Mutant::CountedFromResponse),
        ("same-second", Mutant::SameSecond),
        ("release-before-gone", Mutant::ReleaseBeforeGone),
        ("release-after-loss", Mutant::ReleaseAfterLoss),
        ("relative-deadlines", Mutant::RelativeDeadlines),
        ("our-name-is-ours", Mutant::OurNameIsOurs),
        ("late-success", Mutant::LateSuccess),
        ("unconditional-put", Mutant::UnconditionalPut),
        ("early-create", Mutant::EarlyCreate),
        ("records-renew-time", Mutant::RecordsRenewTime),
        ("ignores-end-of-file", Mutant::IgnoresEndOfFile),
        ("latch-kept", Mutant::LatchKept),
        ("abandoned-write", Mutant::AbandonedWrite),
        ("unclear-settled-by-get", Mutant::UnclearSettledByGet),
        ("blank-restored", Mutant::BlankRestored),
        ("missing-count-is-ours", Mutant::MissingCountIsOurs),
        ("page-is-conflict", Mutant::PageIsConflict),
        ("no-look-before-exec", Mutant::NoLookBeforeExec),
        ("late-is-failed", Mutant::LateIsFailed),
        ("crash-release-before-gone", Mutant::CrashReleaseBeforeGone),
    ];

    /// Whether this mistake is to be made.
    #[inline]
    pub fn is_on(self) -> bool {
        #[cfg(feature = "mutants")]
        return chosen::CHOSEN.with(|chosen| chosen.get() == Some(self));
        #[cfg(not(feature = "mutants"))]
        false
    }
}

/// Chooses the mistake that this thread makes from now on, or none.
#[cfg(feature = "mutants")]
pub fn choose(mutant: Option<Mutant>) {
    chosen::CHOSEN.with(|chosen| chosen.set(mutant));
}

#[cfg(feature = "mutants")]
mod chosen {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        pub static CHOSEN: Cell<Option<Mutant>> = Cell::new(from_environment());
    }

    fn from_environment() -> Option<Mutant> {
        let name = std::env::var("LEADER_RUN_MUTANT").ok()?;
        let mut known = Mutant::ALL.into_iter().chain([("panics", Mutant::Panics)]);
        known.find(|(known, _)| *known == name).map(|(_, mutant)| mutant)
    }
}
