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
    world: World,
}

/// The plugins that are installed on a machine. None is started before it is needed.
pub fn of(world: &World) -> Arc<dyn Plugins> {
    Arc::new(Installed { programs: Programs::new(world), world: world.clone() })
}

impl Plugins for Installed {
    fn find(&self, name: &str) -> Result<()> {
        self.programs.find(name).map(drop)
    }

    fn converse(&self, name: &str, machine: &str, talk: &mut Talk<'_>) -> Result<()> {
        let mut talk = |from: &mut dyn BufRead, to: &mut dyn Write| talk(from, to);
        let talked = self.programs.converse(name, machine, &mut talk);
        // Who was asked and pressed Ctrl-C did not mean the plugin.
        self.world.check_stop()?;
        talked
    }

    fn show(&self, message: &str) {
        if self.world.terminal {
            prompt::show(message);
        }
    }

    fn ask(&self, message: &str, secret: bool) -> Option<SecretString> {
        if !self.world.terminal {
            return None;
        }
        let answer =
            if secret { prompt::passphrase(&self.world, message) } else { prompt::answer(&self.world, message) };
        // Whoever does not answer has answered.
        answer.ok().flatten()
    }
}
