//! What people read about the settings, made from the declarations: the tables of docs/settings.md, and the example file
//! packaging/profiled.toml.

use std::fmt::Write as _;

use super::declared::{Changes, Declared, SetIn};
use super::settings::{SECTIONS, Section, Table};
use super::value::DefaultText;

/// The example file is wrapped at this many columns.
const COLUMNS: usize = 110;

/// The tables of settings in Markdown, each under its heading.
fn tables() -> String {
    let mut page = String::new();
    for section in &SECTIONS {
        let about = match section.table {
            Table::Top => "",
            Table::Ingest => "These are in the table `[ingest]` of the file.\n\n",
            Table::Cluster => {
                "These are in the table `[cluster]` of the file. Properties of the Kafka client (TLS, SASL and others) \
                stand in `[cluster.kafka]`, under their own names, and are passed on as they are.\n\n"
            }
            Table::Client => {
                "These are in a table `[clients.NAME]` of the file, one for each client. As long as there is no such \
                 table, every client code is accepted. Once one client is configured, calls of other clients get a 404.\n\n"
            }
        };
        write(&mut page, format_args!("## {}\n\n{about}", section.title));
        rows(&mut page, section, section.table, section.settings.iter());
        if section.table == Table::Client {
            write(&mut page, format_args!("### For all clients\n\n"));
            write(
                &mut page,
                format_args!(
                    "These settings of a client may also stand at the top of the file, and have a flag and a variable. \
                     Then they hold for every client whose table does not say something else.\n\n"
                ),
            );
            let shared = section.settings.iter().filter(|declared| declared.set_in == SetIn::Anything);
            rows(&mut page, section, Table::Top, shared);
        }
    }
    page
}

fn rows<'a>(
    page: &mut String,
    section: &Section,
    table: Table,
    settings: impl Iterator<Item = &'a Declared>,
) {
    page.push_str(
        "| Setting | Takes | Default | Changes at | What it does |\n| --- | --- | --- | --- | --- |\n",
    );
    for declared in settings {
        let default = match (declared.default)() {
            // A setting of all clients may have one.
            _ if section.table == Table::Client
                && table == Table::Client
                && declared.set_in == SetIn::Anything =>
            {
                "the setting of all clients".to_owned()
            }
            DefaultText::Written(value) => format!("`{}`", value.trim_matches('"')),
            DefaultText::Words { words, .. } => words.to_owned(),
        };
        let (key, takes, doc) = (declared.key, (declared.expected)(), declared.text());
        let changes = match declared.changes {
            Changes::AtSighup => "`SIGHUP`",
            Changes::AtStart => "start",
        };
        write(page, format_args!("| `{key}` | {takes} | {default} | {changes} | {doc} |\n"));
    }
    page.push('\n');
}

/// An example of the file: every setting with what it does and its default, as a comment.
fn example_file() -> String {
    let mut file = String::from(
        "# The settings of profiled. A line that begins with `# ` and a key shows the setting's default, or an example.\n\
         # A flag (--listen) and a variable (PROFILED_LISTEN) come before a line here. `systemctl reload profiled` makes\n\
         # the daemon read the file again; settings marked (start) wait for the next start.\n\n\
         # Without tokens the daemon serves this machine alone. Before other machines may call it, make a token:\n\
         #   sudo -u profiled profiled token new --init --data /var/lib/profiled --client demo --scope admin\n\
         listen = \"127.0.0.1:8750\"\n",
    );
    // In TOML, a table goes on to the next one: what all clients share must come before the first.
    let sections = SECTIONS.iter().filter(|it| it.table != Table::Client);
    let shared = |it: &&Section| it.table == Table::Top;
    for section in sections.clone().filter(shared) {
        example_section(&mut file, section.title, None, section.settings.iter());
    }
    for section in SECTIONS.iter().filter(|it| it.table == Table::Client) {
        let shared = section.settings.iter().filter(|declared| declared.set_in == SetIn::Anything);
        example_section(&mut file, "All clients", None, shared);
    }
    for section in sections.filter(|it| !shared(it)) {
        let table = if section.table == Table::Cluster { "cluster" } else { "ingest" };
        example_section(&mut file, section.title, Some(table), section.settings.iter());
    }
    for section in SECTIONS.iter().filter(|it| it.table == Table::Client) {
        let title = "One client. Once a client has a table, clients without one are refused";
        example_section(&mut file, title, Some("clients.demo"), section.settings.iter());
    }
    file
}

fn example_section<'a>(
    file: &mut String,
    title: &str,
    table: Option<&str>,
    settings: impl Iterator<Item = &'a Declared>,
) {
    write(file, format_args!("\n\n### {title}\n"));
    if let Some(table) = table {
        write(file, format_args!("\n# [{table}]\n"));
    }
    for declared in settings.filter(|declared| declared.key != "listen") {
        let start = if declared.changes == Changes::AtStart { " (start)" } else { "" };
        file.push('\n');
        let mut column = COLUMNS;
        for word in format!("{}{start}", declared.text()).split(' ') {
            if column + 1 + word.len() > COLUMNS {
                file.push_str(if column == COLUMNS { "##" } else { "\n##" });
                column = 2;
            }
            write(file, format_args!(" {word}"));
            column += 1 + word.len();
        }
        let example = match (declared.default)() {
            DefaultText::Written(value) => value,
            DefaultText::Words { example, .. } => example.to_owned(),
        };
        write(file, format_args!("\n# {} = {example}\n", declared.key));
    }
}

/// Writing to a string does not fail.
fn write(to: &mut String, text: std::fmt::Arguments<'_>) {
    to.write_fmt(text).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What is between these lines of docs/settings.md is generated.
    const BEGIN: &str = "<!-- Generated from src/config/settings.rs: begin -->\n";
    const END: &str = "<!-- end -->\n";

    /// Compares a file with what the declarations make of it, or writes it so if `WRITE_DOCS` is set.
    #[expect(clippy::disallowed_methods, reason = "not one of the daemon's settings")]
    fn compare(name: &str, made: impl FnOnce(&str) -> String) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let found = std::fs::read_to_string(&path).unwrap();
        let made = made(&found);
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(path, made).unwrap();
        } else {
            let fix = "run `WRITE_DOCS=1 cargo test --lib config::docs`";
            assert!(found == made, "{name} differs from the declarations in src/config/settings.rs: {fix}");
        }
    }

    #[test]
    fn the_page_of_settings_is_what_the_declarations_say() {
        compare("docs/settings.md", |page| {
            let (before, rest) = page.split_once(BEGIN).unwrap();
            let (_, after) = rest.split_once(END).unwrap();
            format!("{before}{BEGIN}\n{}{END}{after}", tables())
        });
    }

    #[test]
    fn the_example_file_is_what_the_declarations_say() {
        compare("packaging/profiled.toml", |_| example_file());
    }

    #[test]
    fn the_example_file_is_read_with_every_line_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profiled.toml");
        let example = example_file();
        let in_use: Vec<&str> = example
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(setting) if setting.contains(" = ") || setting.starts_with('[') => setting,
                _ => line,
            })
            .collect();
        let keys = in_use.iter().filter(|line| line.contains(" = ")).count();
        let declared: usize = SECTIONS.iter().map(|section| section.settings.len()).sum();
        // Settings of all clients are there twice.
        assert_eq!(keys, declared + 3, "{in_use:#?}");
        // Backups go to one place, and not every binary knows this one.
        let together: Vec<&str> = in_use.into_iter().filter(|line| !line.starts_with("backup_url")).collect();
        std::fs::write(&path, together.join("\n")).unwrap();
        let config = crate::config::Config::resolve(&crate::config::ServeOptions::of_file(path)).unwrap();
        assert_eq!(config.limits, crate::config::Limits::default());
        assert_eq!(config.timeouts, crate::config::Timeouts::default());
        assert_eq!(config.upkeep, crate::config::Upkeep::default());
        assert_eq!(config.clients().count(), 1);
    }
}
