//! Plugins of age, joined: the protocol with the processes, and with the person before the screen.

use std::io::{BufRead, Write};
use std::sync::Arc;

use secrecy::SecretString;

use crate::error::Result;
use crate::host::plugin::Programs;
use crate::host::prompt;
use crate::host::world::World;
use crate::stream::plugin::{Plugins, Talk};

/// The plugins of a machine.
struct Installed {
    programs: Programs,
    /// Whether there is somebody to ask.
    attended: bool,
}

/// The plugins that are installed on a machine. None is started before it is needed.
pub fn of(world: &World) -> Arc<dyn Plugins> {
    Arc::new(Installed { programs: Programs::new(world), attended: world.terminal })
}

impl Plugins for Installed {
    fn find(&self, name: &str) -> Result<()> {
        self.programs.find(name).map(drop)
    }

    fn converse(&self, name: &str, machine: &str, talk: &mut Talk<'_>) -> Result<()> {
        self.programs.converse(name, machine, &mut |from: &mut dyn BufRead, to: &mut dyn Write| talk(from, to))
    }

    fn show(&self, message: &str) {
        if self.attended {
            prompt::show(message);
        }
    }

    fn ask(&self, message: &str, secret: bool) -> Option<SecretString> {
        if !self.attended {
            return None;
        }
        let answer = if secret { prompt::passphrase(message) } else { prompt::answer(message) };
        // Whoever does not answer has answered.
        answer.ok().flatten()
    }
}
