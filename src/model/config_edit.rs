//! A configuration that a person wrote, changed where it has to be and nowhere else.

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value, value};

use super::config::{Config, Origin, Source};

/// The text of a configuration, made to say what `config` does; `None` where more would have to change than recipients and
/// sources behind those that are there.
pub(super) fn edit(config: &Config, text: &str) -> Option<String> {
    let before = Config::parse(text).ok()?;
    let mut document: DocumentMut = text.parse().ok()?;
    for (section, old, new) in [
        ("state", &before.state.recipients, &config.state.recipients),
        ("secrets", &before.secrets.recipients, &config.secrets.recipients),
    ] {
        if old != new {
            let list = document.get_mut(section)?.get_mut("recipients")?.as_value_mut()?;
            let decor = list.decor().clone();
            *list = Value::Array(new.iter().collect::<Array>());
            *list.decor_mut() = decor;
        }
    }
    let added = config.sources.get(before.sources.len()..)?;
    if !added.is_empty() {
        add(document.get_mut("source")?, added)?;
    }
    let out = document.to_string();
    // What was not thought of above shows here.
    (Config::parse(&out).ok()? == *config).then_some(out)
}

fn add(sources: &mut Item, added: &[Source]) -> Option<()> {
    for source in added {
        let (key, text) = match &source.origin {
            Origin::Preset(name) => ("preset", name),
            Origin::Path(path) => ("path", path),
        };
        if let Some(tables) = sources.as_array_of_tables_mut() {
            let mut table = Table::new();
            table.insert(key, value(text));
            tables.push(table);
        } else {
            let mut table = InlineTable::new();
            table.insert(key, Value::from(text));
            sources.as_array_mut()?.push(table);
        }
    }
    Some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const WRITTEN: &str = "\
# Ours.
name = 'vm1'   # the first
store = \"/backups\"
[state]
recipients = [ # Ada
  \"age1xjpk6mqks5jpllkkarees8q5a8xlzmxurdl2xyl8ep0esg2njf8sm9fytm\",
] # who reads it
identity = \"none\"
[secrets]
recipients = [\"age1xjpk6mqks5jpllkkarees8q5a8xlzmxurdl2xyl8ep0esg2njf8sm9fytm\"]
identity = \"none\"
SOURCES
# The end.
";
    const OTHER: &str = "age1l0cqr62kd8ml3vk6ffc5jzc9mdku50nkxdp28hcm84nje7x7ugjqzn4ydj";

    fn edited(sources: &str, change: impl FnOnce(&mut Config)) -> Option<String> {
        let text = WRITTEN.replace("SOURCES", sources);
        let mut config = Config::parse(&text).unwrap();
        change(&mut config);
        let out = config.written_into(&text);
        assert!(out.as_ref().is_none_or(|out| Config::parse(out).unwrap() == config));
        out
    }

    #[test]
    fn what_a_person_wrote_stays() {
        let tables = "# Work.\n[[source]]\npath = '~/a' # all of it\n";
        assert_eq!(edited(tables, |_| {}).unwrap(), WRITTEN.replace("SOURCES", tables));
        let more = edited(tables, |c| {
            c.sources.push(Source::new(Origin::Path("~/b \"c\"".into())));
            c.sources.push(Source::new(Origin::Preset("hermes".into())));
        });
        let more = more.unwrap();
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let before = lines(&WRITTEN.replace("SOURCES", tables));
        assert!(before.iter().all(|line| lines(&more).contains(line)), "{more}");
    }

    #[test]
    fn recipients_are_replaced_where_they_stand() {
        let tables = "[[source]]\npath = '~/a'\n";
        let rotated = edited(tables, |c| c.state.recipients = vec![OTHER.to_owned()]).unwrap();
        assert!(rotated.contains(&format!("recipients = [\"{OTHER}\"] # who reads it\n")), "{rotated}");
        assert!(rotated.contains("# Ours.\nname = 'vm1'   # the first\n"), "{rotated}");
        // Anything else is not for this.
        assert_eq!(edited(tables, |c| c.store = "/elsewhere".to_owned()), None);
        assert_eq!(edited(tables, |c| c.sources.clear()), None);
    }
}
