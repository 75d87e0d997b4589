//! What was backed up comes back.

use crate::world::Machine;

#[test]
fn a_small_home_comes_back() {
    let machine = Machine::new();
    machine.write("agent/notes.md", "remember this");
    machine.write("agent/.env", "API_KEY=fake-0000");
    machine.init(&["agent"]);
    machine.backup();
    let target = machine.target("restored");
    let done = machine.restore(&target);
    assert!(done.missing.is_empty());
    assert_eq!(std::fs::read(target.join("home/agent/notes.md")).unwrap(), b"remember this");
    assert_eq!(std::fs::read(target.join("home/agent/.env")).unwrap(), b"API_KEY=fake-0000");
    assert_eq!(machine.restore(&target).restored, 0);
}
