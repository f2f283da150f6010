//! What is printed: lists and single things, as a table, JSON, YAML or bare values.

use std::io::Write;

use clap::{Args, ValueEnum};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use crate::config::Environment;
use crate::error::Failure;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// Numbers as numbers, sizes in bytes.
    Json,
    /// The same as JSON.
    Yaml,
    /// Bare values: for a list, a line each, with a tab between two columns.
    Value,
}

/// How it is printed.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Output {
    /// How to print what comes out
    #[arg(short, long, value_enum, default_value_t, global = true, help_heading = "Output")]
    format: Format,
    /// Print this column only; may be given several times
    #[arg(short, long = "column", value_name = "COLUMN", global = true, help_heading = "Output")]
    columns: Vec<String>,
    /// Whether colours are for this terminal; found out at the start.
    #[arg(skip)]
    pub(crate) colours: bool,
}

/// A value, and how people see it if that differs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cell {
    value: Value,
    shown: Option<String>,
}

impl<T: Into<Value>> From<T> for Cell {
    fn from(value: T) -> Self {
        Self { value: value.into(), shown: None }
    }
}

impl Cell {
    /// A number that people see with its unit.
    pub(crate) fn shown(value: impl Into<Value>, shown: impl Into<String>) -> Self {
        Self { value: value.into(), shown: Some(shown.into()) }
    }

    fn text(&self) -> String {
        self.shown.clone().unwrap_or_else(|| plain(&self.value))
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(map) => {
            let pair = |(name, value): (&String, &Value)| format!("{name}={}", plain(value));
            map.iter().map(pair).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// Fields of one thing, in their order.
pub(crate) type Fields = Vec<(&'static str, Cell)>;

/// Things of a kind, with the same fields.
#[derive(Clone, Debug)]
pub(crate) struct List {
    pub(crate) columns: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<Cell>>,
}

struct Ordered<'a>(&'a [(&'static str, Cell)]);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, cell) in self.0 {
            map.serialize_entry(name, &cell.value)?;
        }
        map.end()
    }
}

/// Whether what is printed is to have colours: <https://no-color.org>.
pub(crate) fn colours(terminal: bool, environment: &Environment) -> bool {
    let off = environment.get("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = environment.get("TERM").is_some_and(|term| term == "dumb");
    terminal && !off && !dumb
}

impl Output {
    /// Where the wanted columns are.
    fn chosen(&self, columns: &[&'static str]) -> Result<Vec<usize>, Failure> {
        if self.columns.is_empty() {
            return Ok((0..columns.len()).collect());
        }
        let find = |wanted: &String| {
            let same = |name: &&str| name.eq_ignore_ascii_case(&wanted.replace([' ', '-'], "_"));
            columns.iter().position(same).ok_or_else(|| {
                Failure::usage(format!("There is no column '{wanted}'."))
                    .next(format!("There are: {}.", columns.join(", ")))
            })
        };
        self.columns.iter().map(find).collect()
    }

    /// Whether this is how.
    pub(crate) fn is(&self, format: Format) -> bool {
        self.format == format
    }

    /// Prints a list.
    pub(crate) fn list(&self, list: &List) -> Result<(), Failure> {
        print(&self.list_text(list)?)
    }

    /// Prints one thing.
    pub(crate) fn show(&self, fields: &Fields) -> Result<(), Failure> {
        print(&self.show_text(fields)?)
    }

    fn list_text(&self, list: &List) -> Result<String, Failure> {
        let chosen = self.chosen(&list.columns)?;
        let columns: Vec<&'static str> = chosen.iter().map(|at| list.columns[*at]).collect();
        let rows: Vec<Vec<Cell>> = list
            .rows
            .iter()
            .map(|row| chosen.iter().map(|at| row[*at].clone()).collect())
            .collect();
        let objects = || -> Vec<Vec<(&'static str, Cell)>> {
            let object = |row: &Vec<Cell>| columns.iter().copied().zip(row.clone()).collect();
            rows.iter().map(object).collect()
        };
        Ok(match self.format {
            Format::Table if rows.is_empty() => String::new(),
            Format::Table => {
                let texts: Vec<Vec<String>> =
                    rows.iter().map(|row| row.iter().map(Cell::text).collect()).collect();
                table(Some(&columns), &texts, self.colours)
            }
            Format::Json => {
                let objects = objects();
                json(&objects.iter().map(|object| Ordered(object)).collect::<Vec<_>>())
            }
            Format::Yaml => {
                let objects = objects();
                yaml(&objects.iter().map(|object| Ordered(object)).collect::<Vec<_>>())
            }
            Format::Value => {
                let line = |row: &Vec<Cell>| {
                    row.iter().map(|cell| plain(&cell.value)).collect::<Vec<_>>().join("\t") + "\n"
                };
                rows.iter().map(line).collect()
            }
        })
    }

    fn show_text(&self, fields: &Fields) -> Result<String, Failure> {
        let names: Vec<&'static str> = fields.iter().map(|(name, _)| *name).collect();
        let fields: Fields =
            self.chosen(&names)?.into_iter().map(|at| fields[at].clone()).collect();
        Ok(match self.format {
            Format::Table => {
                let row =
                    |(name, cell): &(&'static str, Cell)| vec![(*name).to_owned(), cell.text()];
                table(None, &fields.iter().map(row).collect::<Vec<_>>(), self.colours)
            }
            Format::Json => json(&Ordered(&fields)),
            Format::Yaml => yaml(&Ordered(&fields)),
            Format::Value => fields.iter().map(|(_, cell)| plain(&cell.value) + "\n").collect(),
        })
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("values are JSON") + "\n"
}

fn yaml(value: &impl Serialize) -> String {
    serde_yaml_ng::to_string(value).expect("JSON is YAML")
}

/// Words that say how somebody is.
fn colour(word: &str) -> Option<&'static str> {
    Some(match word {
        "ACTIVE" | "up" | "enabled" | "completed" | "confirmed" | "finished" | "done"
        | "Success" | "active" => "32",
        "ERROR" | "error" | "failed" | "down" | "Error" | "left" => "31",
        "BUILD" | "MIGRATING" | "RESIZE" | "VERIFY_RESIZE" | "REVERT_RESIZE" | "REBOOT"
        | "HARD_REBOOT" | "REBUILD" | "disabled" | "cancelled" | "reverted" | "running"
        | "accepted" | "preparing" | "queued" | "saving" => "33",
        "SHUTOFF" | "DELETED" => "2",
        _ => return None,
    })
}

fn pad(text: &str, width: usize, colours: bool) -> String {
    let space = " ".repeat(width.saturating_sub(text.width()));
    match colour(text).filter(|_| colours) {
        Some(code) => format!("\x1b[{code}m{text}\x1b[0m{space}"),
        None => format!("{text}{space}"),
    }
}

/// A line under the header, and no others.
fn table(header: Option<&[&'static str]>, rows: &[Vec<String>], colours: bool) -> String {
    let header: Option<Vec<String>> =
        header.map(|names| names.iter().map(|name| name.replace('_', " ")).collect());
    let all = || header.iter().chain(rows);
    let count = all().map(Vec::len).max().unwrap_or_default();
    let width = |at: usize| {
        let widths = all().filter_map(|row| row.get(at)).flat_map(|cell| cell.lines());
        widths.map(UnicodeWidthStr::width).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for (at, row) in all().enumerate() {
        let height = row.iter().map(|cell| cell.lines().count()).max().unwrap_or(1).max(1);
        for line in 0..height {
            let cell = |(column, cell): (usize, &String)| {
                pad(cell.lines().nth(line).unwrap_or_default(), widths[column], colours)
            };
            let cells: Vec<String> = row.iter().enumerate().map(cell).collect();
            text += cells.join("  ").trim_end();
            text.push('\n');
        }
        if at == 0 && header.is_some() {
            let lines: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
            text += &(lines.join("  ") + "\n");
        }
    }
    text
}

/// Writes to the standard output. Whoever stops reading has read enough.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::failed("The output can't be written.").because(error))
        }
        _ => Ok(()),
    }
}

/// Writes a line to the standard error: what is going on, never what was asked for.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn output(format: Format, columns: &[&str]) -> Output {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        Output { format, columns, colours: false }
    }

    fn list() -> List {
        let row = |name: &str, status: &str, bytes: u64| {
            vec![name.into(), status.into(), Cell::shown(bytes, format!("{bytes} B"))]
        };
        List {
            columns: vec!["name", "status", "size_left"],
            rows: vec![row("wéb", "ACTIVE", 5), row("database", "ERROR", 1_000)],
        }
    }

    #[test]
    fn a_table_is_aligned_by_what_is_seen() {
        let expected = "\
name      status  size left
────────  ──────  ─────────
wéb       ACTIVE  5 B
database  ERROR   1000 B
";
        assert_eq!(output(Format::Table, &[]).list_text(&list()).unwrap(), expected);
        let coloured = Output { colours: true, ..Output::default() }.list_text(&list()).unwrap();
        assert!(coloured.contains("\x1b[32mACTIVE\x1b[0m  5 B"), "{coloured:?}");
        let none = List { columns: vec!["name"], rows: vec![] };
        assert_eq!(output(Format::Table, &[]).list_text(&none).unwrap(), "");
    }

    #[test]
    fn machines_get_values_in_the_order_of_columns() {
        let text = output(Format::Value, &["size-left", "Name"]).list_text(&list()).unwrap();
        assert_eq!(text, "5\twéb\n1000\tdatabase\n");
        let text = output(Format::Json, &["status", "name"]).list_text(&list()).unwrap();
        assert!(text.find("status") < text.find("name"), "{text}");
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!([{ "status": "ACTIVE", "name": "wéb" }, { "status": "ERROR", "name": "database" }])
        );
        let text = output(Format::Yaml, &["name", "size_left"]).list_text(&list()).unwrap();
        assert_eq!(text, "- name: wéb\n  size_left: 5\n- name: database\n  size_left: 1000\n");
    }

    #[test]
    fn one_thing_is_printed_field_by_field() {
        let fields: Fields = vec![
            ("id", 7.into()),
            ("tags", json!(["a", "b"]).into()),
            ("properties", json!({ "k": "v" }).into()),
            ("fault", Value::Null.into()),
        ];
        let table = output(Format::Table, &[]).show_text(&fields).unwrap();
        assert_eq!(table, "id          7\ntags        a, b\nproperties  k=v\nfault\n");
        assert_eq!(output(Format::Value, &["tags"]).show_text(&fields).unwrap(), "a, b\n");
        let failure = output(Format::Value, &["tag"]).show_text(&fields).unwrap_err();
        assert_eq!(failure.kind as u8, 2);
        assert!(failure.lines()[1].contains("id, tags, properties, fault"));
    }

    #[test]
    fn no_colours_where_none_are_wanted() {
        let with = |name: &str, value: &str| {
            colours(true, &Environment::from([(name.to_owned(), value.to_owned())]))
        };
        assert!(!colours(false, &Environment::new()), "files have none");
        assert!(with("TERM", "xterm") && with("NO_COLOR", ""));
        assert!(!with("NO_COLOR", "1") && !with("TERM", "dumb"));
    }
}
