//! The `lifeboat` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Nothing this program writes is for others to read, and no core dump may hold a key.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none).unwrap_or(());
    // The limit does not count where dumps go to a program such as systemd-coredump. This does, and keeps the memory from
    // other processes of the same user, too.
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).unwrap_or(());
    lifeboat::cli::run(std::env::args_os())
}
