//! Who is alive when, and whether that is allowed.

use std::fmt;
use std::time::Duration;

/// What must not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two trees of ours were alive at once.
    Overlap,
    /// Ours and one of client-go's were, while the latter's lease was valid.
    OverlapWithPeer,
    /// Two trees were alive for longer after a machine had stood still than it takes to kill one.
    SurvivedThaw,
    /// A tree was alive for longer after its leader-run was killed than it takes to kill one.
    SurvivedKill,
    /// A record was cleared while its holder's tree was alive.
    ReleasedWhileAlive,
    /// The lock was written after it was lost.
    WroteAfterLoss,
    /// It counted as leading although S+R had passed.
    LedPastDeadline,
    /// The child was started although S+R had passed.
    StartedLate,
    /// The start of a child failed, in a world where nothing keeps a child from being started.
    StartFailed,
    /// The lock names a term again that another one has followed.
    CameBack,
    /// Two trees were alive for longer than a lease after somebody had wiped the record.
    SurvivedEdit,
    /// leader-run ended at once although a write of its own was unclear.
    EndedUnclear,
    /// leader-run ended while its tree was alive.
    LeftTreeBehind,
    /// leader-run ended while a write was under way that might win the lock.
    AbandonedWrite,
    /// The guard was given up although nothing was wrong with it, nor was it late with killing.
    GaveUpHealthyGuard,
    /// It asked to be woken again and again without doing anything.
    Spins,
    /// All is well again, and nobody leads.
    NobodyLeads,
}

/// Found out at some moment of a history.
#[derive(Clone, Debug)]
pub struct Finding {
    pub at: Duration,
    pub violation: Violation,
    pub who: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:.3} s: {:.160}", self.violation, self.at.as_secs_f64(), self.who)
    }
}

/// What a history amounted to.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub finding: Option<Finding>,
    /// Terms in which a child was started.
    pub terms: u64,
    /// client-go's tree was alive past its own lease beside another one, or beside one of client-go's.
    pub peers_own: u64,
    /// Two trees were alive for a moment after a machine had stood still.
    pub exposures: u64,
    pub events: u64,
}

/// A tree that is alive.
#[derive(Clone, Debug)]
struct Live {
    owner: Owner,
    node: usize,
    since: Duration,
    /// When its machine went on that had stood still between its last look at the clock and execve.
    late: Option<Duration>,
    /// Until when its lock is valid by its own last write, counted as early as clocks allow; for client-go.
    lease_until: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Ours(usize),
    ClientGo(usize),
}

/// So long may two trees be alive at once after a thaw: until the guard, or at last leader-run, has killed.
const THAW: Duration = Duration::from_millis(450);

/// Two trees that are alive at once, with an excuse.
#[derive(Clone, Debug)]
struct Exposure {
    a: Owner,
    b: Owner,
    since: Duration,
    /// How long the excuse holds, and what it is when that is over.
    bound: Duration,
    then: Violation,
}

#[derive(Debug, Default)]
pub struct Judge {
    live: Vec<Live>,
    exposed: Vec<Exposure>,
    longest: Duration,
    /// When somebody last wiped the record.
    pub edited: Option<Duration>,
    /// When a tree last ended.
    ended: Duration,
    pub verdict: Verdict,
}

/// Whether a node stands still, and when it last went on.
pub trait Stillness {
    fn is_frozen(&self, node: usize) -> bool;
    fn froze(&self, node: usize) -> Option<Duration>;
    fn thawed(&self, node: usize) -> Option<Duration>;
}

impl Judge {
    /// `longest`: the longest lease of the history.
    pub fn new(longest: Duration) -> Judge {
        Judge { longest, ..Judge::default() }
    }

    pub fn find(&mut self, at: Duration, violation: Violation, who: String) {
        self.verdict.finding.get_or_insert(Finding { at, violation, who });
    }

    pub fn is_alive(&self, owner: Owner) -> bool {
        self.live.iter().any(|live| live.owner == owner)
    }

    /// When the last tree ended, if there is none.
    pub fn idle_since(&self) -> Option<Duration> {
        self.live.is_empty().then_some(self.ended)
    }

    /// `looked`: when it last looked at the clock before.
    pub fn started(&mut self, now: Duration, owner: Owner, node: usize, looked: Duration, still: &impl Stillness) {
        self.verdict.terms += 1;
        // No look at a clock can tell it of a stillness that begins after it.
        let late = still.thawed(node).filter(|_| still.froze(node).is_some_and(|at| at > looked));
        for other in self.live.clone() {
            let thawed = still.thawed(other.node).filter(|at| *at > other.since);
            let excuse = [late, thawed, other.late].into_iter().flatten().max().filter(|at| now - *at < THAW);
            if still.is_frozen(other.node) {
                continue;
            } else if self.is_edited(other.since) {
                self.expose(owner, other.owner, now, true);
            } else if let Some(thawed) = excuse {
                // Counted from the thaw for one that was born after it.
                self.expose(owner, other.owner, if late.is_some() { thawed } else { now }, false);
            } else {
                self.overlap(now, owner, &other);
            }
        }
        self.live.push(Live { owner, node, since: now, late, lease_until: Duration::ZERO });
    }

    /// Whether somebody has wiped the record since a tree that was started then acquired the lock, perhaps.
    fn is_edited(&self, started: Duration) -> bool {
        self.edited.is_some_and(|at| at + self.longest > started)
    }

    fn expose(&mut self, a: Owner, b: Owner, since: Duration, edited: bool) {
        let (bound, then) =
            if edited { (self.longest, Violation::SurvivedEdit) } else { (THAW, Violation::SurvivedThaw) };
        self.exposed.push(Exposure { a, b, since, bound, then });
    }

    fn overlap(&mut self, now: Duration, owner: Owner, other: &Live) {
        let who =
            format!("{owner:?} started while {:?} is alive since {:.3} s", other.owner, other.since.as_secs_f64());
        match (owner, other.owner) {
            (Owner::Ours(_), Owner::Ours(_)) => self.find(now, Violation::Overlap, who),
            // Two of client-go's, with its own rules.
            (Owner::ClientGo(_), Owner::ClientGo(_)) => self.verdict.peers_own += 1,
            (_, Owner::ClientGo(_)) if now >= other.lease_until => self.verdict.peers_own += 1,
            _ => self.find(now, Violation::OverlapWithPeer, who),
        }
    }

    pub fn renewed(&mut self, owner: Owner, until: Duration) {
        if let Some(live) = self.live.iter_mut().find(|live| live.owner == owner) {
            live.lease_until = until;
        }
    }

    pub fn ended(&mut self, now: Duration, owner: Owner) {
        let before = self.live.len();
        self.live.retain(|live| live.owner != owner);
        if self.live.len() < before {
            self.ended = now;
        }
        self.close(now, |other| other == owner);
    }

    /// What stands still does no harm.
    pub fn froze(&mut self, now: Duration, node: usize) {
        let there: Vec<_> = self.live.iter().filter(|live| live.node == node).map(|live| live.owner).collect();
        self.close(now, |owner| there.contains(&owner));
    }

    fn close(&mut self, now: Duration, over: impl Fn(Owner) -> bool) {
        let (ended, open) = self.exposed.iter().cloned().partition::<Vec<_>, _>(|pair| over(pair.a) || over(pair.b));
        self.exposed = open;
        for Exposure { a, b, since, bound, then } in ended {
            self.verdict.exposures += 1;
            if now - since > bound && !matches!((a, b), (Owner::ClientGo(_), _) | (_, Owner::ClientGo(_))) {
                let span = (now - since).as_secs_f64();
                self.find(now, then, format!("{a:?} and {b:?} for {span:.3} s"));
            }
        }
    }

    /// A node goes on: what is alive on it runs beside whatever has been started meanwhile.
    pub fn thawed(&mut self, now: Duration, node: usize, still: &impl Stillness) {
        for a in self.live.clone().iter().filter(|live| live.node == node) {
            for b in self.live.clone().iter().filter(|live| live.node != node && !still.is_frozen(live.node)) {
                let edited = self.is_edited(a.since.min(b.since));
                self.expose(a.owner, b.owner, now, edited);
            }
        }
    }

    /// The history is over.
    pub fn end(mut self, now: Duration) -> Verdict {
        for live in self.live.clone() {
            self.ended(now, live.owner);
        }
        self.verdict
    }
}
