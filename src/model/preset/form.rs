//! The form of a preset's file: what can be told of an agent's home.

use serde::Deserialize;

use crate::model::guard::Role;

/// One agent's home, as data.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// The name in a configuration.
    pub name: String,
    /// The agent's own name.
    pub title: String,
    /// Rises whenever a rule changes.
    pub version: u32,
    /// Where the facts come from.
    pub sources: Vec<String>,
    /// Directories of the first root, like `profiles/*`, that are homes themselves: the same rules apply in each.
    #[serde(default)]
    pub repeat_under: Vec<String>,
    /// What the user should know before a restore.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The places, the home first.
    #[serde(rename = "root")]
    pub root_specs: Vec<RootSpec>,
    /// The rules, in order.
    #[serde(rename = "rule", default)]
    pub rules: Vec<PresetRule>,
    /// The databases that are known to be there.
    #[serde(rename = "database", default)]
    pub databases: Vec<Databases>,
    /// What an agent cannot be itself without, for the guard.
    #[serde(rename = "role", default)]
    pub roles: Vec<RoleRule>,
    /// What is counted whenever a snapshot is made, so that a drill and the next run have something to compare with.
    #[serde(rename = "count", default)]
    pub counts: Vec<Count>,
    /// What a drill proves.
    #[serde(rename = "drill", default)]
    pub drills: Vec<Drill>,
    /// What a person has to do after a restore, before the agent starts.
    #[serde(default)]
    pub after: Vec<After>,
    /// What is left under another name by `restore --paused`, so that nothing starts by itself.
    #[serde(rename = "pause", default)]
    pub pauses: Vec<Pause>,
}

/// Files without which an agent, or a part of it, does not start.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// Patterns relative to the home and to each of `repeat_under`. Under the paused name a file has the same class.
    pub paths: Vec<String>,
    /// What does not start without them.
    pub reason: String,
}

/// A step after a restore.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// Patterns relative to the home and to each of `repeat_under`: the step is due when something at one of them, or
    /// below, was restored.
    pub paths: Vec<String>,
    /// What kind of step it is.
    pub kind: AfterKind,
    /// The step, as a sentence.
    pub step: String,
}

/// What kind of step follows a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AfterKind {
    /// Something to look at.
    Check,
    /// Something that must not start before the old machine's has stopped.
    Wait,
}

/// A place of a preset, before it is looked up on a machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootSpec {
    /// Its name inside the preset.
    pub id: String,
    /// Where it is when no variable says otherwise; without it the root exists only when a variable is set.
    pub default: Option<String>,
    /// The agent counts as present only when every required root exists.
    #[serde(default)]
    pub required: bool,
    /// What is expected there.
    pub kind: RootKind,
    /// The variables that move it; the first that is set counts.
    #[serde(default)]
    pub env: Vec<EnvRule>,
}

/// What stands at a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootKind {
    /// A directory.
    Dir,
    /// A single file.
    File,
}

/// An environment variable that moves a root.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvRule {
    /// The variable.
    pub name: String,
    /// What its value means.
    pub how: EnvHow,
    /// The path below the value, with [`EnvHow::Join`].
    #[serde(default)]
    pub join: String,
}

/// How the value of a variable becomes a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvHow {
    /// The value is the root; where it names a directory of `repeat_under`, the root is the home around it.
    Replace,
    /// The root is `join` below the value.
    Join,
}

/// A rule of a preset.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresetRule {
    /// What the paths are.
    pub class: RuleClass,
    /// Patterns relative to the root; `.` is the root itself.
    pub paths: Vec<String>,
    /// Why, as a report says it.
    pub reason: String,
    /// The roots it is about; the first root when empty.
    #[serde(default)]
    pub roots: Vec<String>,
    /// Whether it applies below `repeat_under` as well.
    #[serde(default = "yes")]
    pub repeat: bool,
}

/// The class that a rule gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleClass {
    /// Kept whatever a later `skip` says.
    State,
    /// To the secrets bundle.
    Secret,
    /// Settings or a database with secrets inside: whole to the secrets bundle.
    Mixed,
    /// Left out.
    Skip,
}

/// Which files have a role, relative to the home and to each of `repeat_under`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleRule {
    /// The role.
    pub role: Role,
    /// Patterns.
    pub paths: Vec<String>,
}

/// Something that an agent has a number of, relative to the home and to each of `repeat_under`, added up. What is secret is
/// not counted: the numbers stand in the state's manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Count {
    /// What a query says.
    Sqlite {
        /// What is counted, in the plural.
        name: String,
        /// The database.
        path: String,
        /// A query that gives one number.
        sql: String,
    },
    /// Files.
    Files {
        /// What is counted, in the plural.
        name: String,
        /// Patterns.
        paths: Vec<String>,
    },
    /// Items of a list in a JSON file.
    Json {
        /// What is counted, in the plural.
        name: String,
        /// The file.
        path: String,
        /// Alternatives separated by `|`, each a top-level name, or `.` for the file itself.
        at: String,
    },
}

impl Count {
    /// What is counted, in the plural.
    pub fn name(&self) -> &str {
        match self {
            Count::Sqlite { name, .. } | Count::Files { name, .. } | Count::Json { name, .. } => name,
        }
    }
}

/// Databases of a preset.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Databases {
    /// Patterns relative to the root.
    pub paths: Vec<String>,
    /// How they are told from other files.
    pub detect: Detect,
    /// Those without which the home is not complete.
    #[serde(default)]
    pub required: Vec<String>,
    /// The roots they are in; the first root when empty.
    #[serde(default)]
    pub roots: Vec<String>,
}

/// How a database is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Detect {
    /// By the first bytes of the file, never by its name.
    Header,
}

/// One thing that a drill proves about a restored home. Paths are patterns relative to `root`, the first root when
/// it is not given; a check about a path that the backup does not have is passed over.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Drill {
    /// A file with bytes in it or a directory with entries.
    NonEmpty {
        /// The root.
        root: Option<String>,
        /// The path.
        path: String,
    },
    /// A file that parses.
    Parse {
        /// The root.
        root: Option<String>,
        /// The path.
        path: String,
        /// The syntax.
        format: Format,
        /// Top-level names that must be there.
        #[serde(default)]
        has: Vec<String>,
    },
    /// A database that is sound, and a query that it answers.
    Sqlite {
        /// The root.
        root: Option<String>,
        /// The path.
        path: String,
        /// Whether `integrity_check` is run.
        #[serde(default)]
        integrity: bool,
        /// A query that gives one number.
        sql: Option<String>,
    },
    /// Two queries with the same result.
    SqliteEqual {
        /// The root.
        root: Option<String>,
        /// The path.
        path: String,
        /// One query.
        a: String,
        /// The other.
        b: String,
    },
    /// A query whose rows are paths of files that exist.
    SqlitePathsExist {
        /// The root.
        root: Option<String>,
        /// The path.
        path: String,
        /// The query.
        sql: String,
    },
    /// A list whose names are found on disk.
    ListedExist {
        /// The root.
        root: Option<String>,
        /// The list, one name a line.
        list: String,
        /// What ends the name on its line.
        separator: String,
        /// Where the names are found: the directory of a match bears the name.
        find: String,
    },
    /// Files that are worth something only together.
    BothOrNeither {
        /// The root.
        root: Option<String>,
        /// The paths.
        paths: Vec<String>,
    },
    /// JSON lines, of which the last may be unfinished.
    Jsonl {
        /// The root.
        root: Option<String>,
        /// The files.
        paths: String,
        /// The field that `first` and `any` are about.
        field: Option<String>,
        /// The first line's field is one of these.
        #[serde(default)]
        first: Vec<String>,
        /// Some line's field is one of these.
        #[serde(default)]
        any: Vec<String>,
    },
    /// Modes that are no wider than `max`.
    Mode {
        /// The entries of this class.
        class: RuleClass,
        /// The widest mode, in octal.
        max: String,
    },
}

/// The syntax of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON.
    Json,
    /// JSON with comments and trailing commas.
    Json5,
    /// TOML.
    Toml,
    /// YAML.
    Yaml,
}

fn yes() -> bool {
    true
}
