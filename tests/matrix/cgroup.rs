//! Control groups of either version, where this machine lets us make some.

use crate::support::{LONG, started_by, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A control group of one controller. Gone when it is dropped, if nobody is left in it.
pub struct Cgroup {
    folder: PathBuf,
    version: usize,
}

/// The name and the value of a setting, in version 1 and in version 2.
pub type Setting = [(&'static str, &'static str); 2];

const FROZEN: Setting = [("freezer.state", "FROZEN"), ("cgroup.freeze", "1")];
const THAWED: Setting = [("freezer.state", "THAWED"), ("cgroup.freeze", "0")];

impl Cgroup {
    /// A group below our own.
    ///
    /// # Errors
    /// Why this machine does not let us have one.
    pub fn new(controller: &str) -> Result<Cgroup, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("leader-run-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mut why = format!("there is no control group with {controller}");
        for mount in mounts.lines() {
            let [_, place, kind, options, ..] = mount.split(' ').collect::<Vec<_>>()[..] else { continue };
            let version = match kind {
                "cgroup" if options.split(',').any(|option| option == controller) => 1,
                "cgroup2" => 2,
                _ => continue,
            };
            let folder = Path::new(place).join(own_path(controller, version)).join(&name);
            if let Err(error) = fs::create_dir(&folder) {
                why = format!("{} cannot be made: {error}", folder.display());
                continue;
            }
            let group = Cgroup { folder, version };
            // Freezing needs no controller of its own there.
            let has = fs::read_to_string(group.folder.join("cgroup.controllers")).unwrap_or_default();
            if version == 1 || controller == "freezer" || has.split_whitespace().any(|name| name == controller) {
                return Ok(group);
            }
            why = format!("the control groups here have no {controller}");
        }
        Err(why)
    }

    pub fn set(&self, setting: Setting) {
        let (name, value) = setting[self.version - 1];
        fs::write(self.folder.join(name), value).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Moves a process into it.
    pub fn take(&self, pid: i32) {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// The command, started in it.
    pub fn command(&self, command: &Command) -> Command {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.folder.display());
        started_by(&["sh", "-c", &script, "sh"], command)
    }

    /// Stops all its processes, and waits until they stand still. They go on when what is returned is dropped: a test
    /// that fails before would wait for them without end.
    pub fn freeze(&self) -> Frozen<'_> {
        let frozen = Frozen(self);
        self.set(FROZEN);
        let (file, word) = [("freezer.state", "FROZEN"), ("cgroup.events", "frozen 1")][self.version - 1];
        let state = || fs::read_to_string(self.folder.join(file)).unwrap();
        wait_for("all to be frozen", LONG, || state().contains(word).then_some(()));
        frozen
    }
}

/// A control group whose processes stand still.
pub struct Frozen<'a>(&'a Cgroup);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.set(THAWED);
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let procs = self.folder.join("cgroup.procs");
        let is_empty = || fs::read_to_string(&procs).map_or(true, |pids| pids.is_empty());
        if !std::thread::panicking() {
            wait_for("an empty control group", LONG, || is_empty().then_some(()));
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Where we are in the hierarchy, if that is to be seen here.
fn own_path(controller: &str, version: usize) -> PathBuf {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let line = own.lines().find_map(|line| {
        let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>()[..] else { return None };
        let fits =
            if version == 1 { controllers.split(',').any(|name| name == controller) } else { controllers.is_empty() };
        fits.then(|| path.trim_start_matches('/').to_owned())
    });
    line.unwrap_or_default().into()
}
