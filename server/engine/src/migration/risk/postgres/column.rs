//! Definitions of columns and constraints, defaults and types: what they make PostgreSQL do to the rows that are there.

use crate::migration::risk::token::{Cursor, Name, Token, TokenKind, compared};

/// Words that end the type or the default of a column.
const CONSTRAINT_WORDS: [&str; 15] = [
    "CONSTRAINT",
    "NOT",
    "NULL",
    "CHECK",
    "DEFAULT",
    "GENERATED",
    "UNIQUE",
    "PRIMARY",
    "REFERENCES",
    "DEFERRABLE",
    "INITIALLY",
    "COLLATE",
    "STORAGE",
    "COMPRESSION",
    "NO",
];

/// Functions that give the same value for every row of a statement, so that a default of them is computed once. Any other counts as
/// volatile, because PostgreSQL does not promise anything of a function that nobody looked up.
const STABLE_FUNCTIONS: [&str; 44] = [
    "now",
    "transaction_timestamp",
    "statement_timestamp",
    "current_setting",
    "current_database",
    "current_schema",
    "version",
    "lower",
    "upper",
    "initcap",
    "trim",
    "btrim",
    "ltrim",
    "rtrim",
    "concat",
    "format",
    "length",
    "md5",
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "to_json",
    "to_jsonb",
    "json_build_object",
    "json_build_array",
    "jsonb_build_object",
    "jsonb_build_array",
    "array",
    "row",
    "date_trunc",
    "date_part",
    "extract",
    "make_date",
    "make_interval",
    "make_timestamptz",
    "to_timestamp",
    "to_date",
    "to_char",
    "timezone",
    "abs",
    "round",
    "decode",
    "cast",
];

/// A column's definition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Definition {
    pub(super) column: String,
    /// Its type in lower case, without blanks that do not matter.
    pub(super) kind: String,
    /// `serial` and the like, or `GENERATED .. AS IDENTITY`: a value from a sequence for each row.
    pub(super) numbered: bool,
    /// `GENERATED ALWAYS AS (..) STORED`.
    pub(super) stored: bool,
    /// Whether a value is computed when it is read.
    pub(super) computed: bool,
    pub(super) not_null: bool,
    pub(super) check: bool,
    pub(super) unique: bool,
    pub(super) references: Option<Name>,
    /// The default's text, unless it is null.
    pub(super) default: Option<String>,
    pub(super) volatile: bool,
}

impl Definition {
    /// Reads a column's name, type and constraints.
    pub(super) fn read(mut cursor: Cursor<'_>) -> Option<Self> {
        let mut found = Self {
            column: cursor.identifier()?,
            ..Self::default()
        };
        let (kind, after) = type_of(cursor);
        found.numbered = ["serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"].contains(&kind.as_str());
        found.not_null = found.numbered;
        found.kind = kind;
        cursor = after;
        while cursor.peek().is_some() {
            if cursor.eat("NOT NULL") {
                found.not_null = true;
            } else if cursor.eat("PRIMARY KEY") {
                found.unique = true;
                found.not_null = true;
            } else if cursor.eat("UNIQUE") {
                found.unique = true;
            } else if cursor.eat("CHECK") {
                found.check = true;
                cursor.parens();
            } else if cursor.eat("REFERENCES") {
                found.references = cursor.name();
                cursor.parens();
                // `ON DELETE SET DEFAULT` and `ON DELETE SET NULL` are no default and no constraint.
                while cursor.eat("ON DELETE") || cursor.eat("ON UPDATE") || cursor.eat("MATCH") {
                    if cursor.eat("SET") || cursor.eat("NO") {
                        cursor.skip(1);
                        cursor.parens();
                    } else {
                        cursor.skip(1);
                    }
                }
            } else if cursor.eat("GENERATED") {
                found.read_generated(&mut cursor);
            } else if cursor.eat("DEFAULT") {
                found.read_default(&mut cursor);
            } else if cursor.parens().is_none() {
                cursor.skip(1);
            }
        }
        Some(found)
    }

    fn read_generated(&mut self, cursor: &mut Cursor<'_>) {
        while ["ALWAYS", "BY DEFAULT", "AS"].iter().any(|words| cursor.eat(words)) {}
        if cursor.eat("IDENTITY") {
            self.numbered = true;
            self.not_null = true;
            cursor.parens();
        } else {
            cursor.parens();
            self.stored = cursor.eat("STORED");
            self.computed = !self.stored;
        }
    }

    fn read_default(&mut self, cursor: &mut Cursor<'_>) {
        let expression = expression_of(cursor);
        if expression.len() == 1 && expression.first().is_some_and(|token| token.is_word("NULL")) {
            return;
        }
        self.volatile = is_volatile(expression);
        self.default = Some(text_of(expression));
    }
}

/// The tokens up to the next constraint of the column.
fn expression_of<'a>(cursor: &mut Cursor<'a>) -> &'a [Token] {
    let start = cursor.rest();
    let mut first = true;
    while let Some(token) = cursor.peek() {
        // The first token is the default whatever it is: `DEFAULT NULL`.
        if !first && CONSTRAINT_WORDS.iter().any(|word| token.is_word(word)) {
            break;
        }
        first = false;
        if cursor.parens().is_none() {
            cursor.skip(1);
        }
    }
    &start[..start.len() - cursor.rest().len()]
}

/// Whether an expression may give another value for each row.
pub(super) fn is_volatile(expression: &[Token]) -> bool {
    expression.windows(2).enumerate().any(|(at, pair)| {
        let casts = at
            .checked_sub(1)
            .and_then(|at| expression.get(at))
            .is_some_and(|token| token.is_symbol(":"));
        let calls = pair[0].is_name() && pair[1].is_symbol("(") && !casts;
        calls && !STABLE_FUNCTIONS.contains(&pair[0].text.to_lowercase().as_str())
    })
}

/// Tokens as text, for a message.
pub(super) fn text_of(tokens: &[Token]) -> String {
    let mut text = String::new();
    let mut glue = true;
    for token in tokens {
        let symbol = token.kind == TokenKind::Symbol;
        if !glue && !symbol {
            text.push(' ');
        }
        text.push_str(&token.text);
        glue = symbol;
    }
    text
}

/// A type and what follows it.
pub(super) fn type_of<'a>(cursor: Cursor<'a>) -> (String, Cursor<'a>) {
    let mut cursor = cursor;
    let start = cursor.rest();
    while let Some(token) = cursor.peek() {
        let ends = CONSTRAINT_WORDS
            .iter()
            .chain(&["USING", "OPTIONS"])
            .any(|word| token.is_word(word));
        if ends || token.is_symbol(",") {
            break;
        }
        if cursor.parens().is_none() {
            cursor.skip(1);
        }
    }
    let tokens = &start[..start.len() - cursor.rest().len()];
    (normal_type(tokens, cursor.engine()), cursor)
}

fn normal_type(tokens: &[Token], engine: crate::model::EngineKind) -> String {
    let mut words: Vec<String> = tokens.iter().map(|token| compared(token, engine)).collect();
    if words.first().is_some_and(|word| word == "pg_catalog") {
        words.drain(..words.len().min(2));
    }
    let joined = words.join(" ");
    let mut text = joined
        .replace(" (", "(")
        .replace("( ", "(")
        .replace(" )", ")")
        .replace(" ,", ",")
        .replace(", ", ",");
    for (long, short) in [
        ("character varying", "varchar"),
        ("character", "char"),
        ("bpchar", "char"),
        ("decimal", "numeric"),
        ("timestamp with time zone", "timestamptz"),
        ("timestamp without time zone", "timestamp"),
        ("double precision", "float8"),
    ] {
        if let Some(rest) = text.strip_prefix(long) {
            text = format!("{short}{rest}");
        }
    }
    match text.as_str() {
        "int" | "int4" => "integer".to_owned(),
        "int8" => "bigint".to_owned(),
        "int2" => "smallint".to_owned(),
        "bool" => "boolean".to_owned(),
        "float4" => "real".to_owned(),
        _ => text,
    }
}

/// A type that was read elsewhere, in the same spelling.
pub(super) fn normal(text: &str) -> String {
    let tokens = crate::migration::risk::token::tokens_of(text, crate::model::EngineKind::Postgres);
    normal_type(&tokens, crate::model::EngineKind::Postgres)
}

/// What a change of a column's type does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TypeChange {
    /// Whether the table is written anew.
    pub(super) rewrites: bool,
    /// Whether values may lose something.
    pub(super) narrows: bool,
}

/// What changing a column from a type, where it is known, to another does.
pub(super) fn type_change(from: Option<&str>, to: &str, using: bool) -> TypeChange {
    let (to_base, to_limits) = base_and_limits(to);
    let Some(from) = from else {
        // Nothing is known of the old values, so that only types that can hold whatever fits into a common type lose nothing.
        let cuts = ["varchar", "char"].contains(&to_base.as_str()) && !to_limits.is_empty() && using;
        let narrow = ["smallint", "integer", "real", "date", "time", "boolean"].contains(&to_base.as_str());
        return TypeChange {
            rewrites: true,
            narrows: cuts || narrow || (to_base == "numeric" && !to_limits.is_empty()),
        };
    };
    let (from_base, from_limits) = base_and_limits(from);
    // A longer limit keeps every value; no limit is the longest.
    let widens = |at: usize| match (from_limits.get(at), to_limits.get(at)) {
        (_, None) => true,
        (Some(from), Some(to)) => to >= from,
        (None, Some(_)) => false,
    };
    let same_scale = to_limits.is_empty() || from_limits.get(1) == to_limits.get(1);
    let rewrites = using
        || match (from_base.as_str(), to_base.as_str()) {
            ("varchar", "varchar") => !widens(0),
            ("varchar" | "text", "text") | ("text", "varchar") if to_limits.is_empty() => false,
            ("numeric", "numeric") => !(widens(0) && same_scale),
            ("varbit", "varbit")
            | ("timestamp", "timestamp")
            | ("timestamptz", "timestamptz")
            | ("time", "time")
            | ("interval", "interval") => !widens(0),
            ("cidr", "inet") | ("xml", "text") => false,
            (from, to) => from != to || from_limits != to_limits,
        };
    let rank = |kind: &str| match kind {
        "smallint" => Some(1),
        "integer" => Some(2),
        "bigint" => Some(3),
        "real" => Some(4),
        "float8" => Some(5),
        "numeric" => Some(6),
        _ => None,
    };
    let narrows = match (rank(&from_base), rank(&to_base)) {
        (Some(6), Some(6)) => !widens(0) || !(to_limits.is_empty() || from_limits.get(1) <= to_limits.get(1)),
        (Some(from), Some(to)) if from != to => {
            to < from || (from == 3 && to == 5) || (from < 6 && to == 6 && !to_limits.is_empty())
        }
        (Some(_), Some(_)) => false,
        _ => match (from_base.as_str(), to_base.as_str()) {
            ("varchar" | "char" | "text", "varchar" | "char") => !widens(0),
            (_, "text") | ("date", "timestamp" | "timestamptz") | ("json", "jsonb") => false,
            ("timestamp", "timestamptz") | ("timestamptz", "timestamp") => false,
            (_, "varchar") if to_limits.is_empty() => false,
            (from, to) => from != to || from_limits != to_limits,
        },
    };
    TypeChange { rewrites, narrows }
}

fn base_and_limits(kind: &str) -> (String, Vec<u32>) {
    let Some((base, rest)) = kind.split_once('(') else {
        return (kind.to_owned(), Vec::new());
    };
    let (limits, after) = rest.split_once(')').unwrap_or((rest, ""));
    let limits = limits.split(',').filter_map(|limit| limit.trim().parse().ok()).collect();
    (format!("{}{after}", base.trim()), limits)
}

/// A constraint of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Constraint {
    pub(super) name: Option<String>,
    pub(super) kind: ConstraintKind,
    pub(super) not_valid: bool,
}

/// Its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConstraintKind {
    /// `CHECK`; the column, where it says that a column is not null.
    Check(Option<String>),
    /// `NOT NULL column` as a constraint with a name.
    NotNull(String),
    /// `UNIQUE` or `PRIMARY KEY`.
    Unique {
        columns: Vec<String>,
        using_index: bool,
        primary: bool,
    },
    /// `EXCLUDE`.
    Exclude,
    /// `FOREIGN KEY`.
    ForeignKey { columns: Vec<String>, parent: Name },
}

/// Reads a constraint of a table; `None` where it is none.
pub(super) fn table_constraint(mut cursor: Cursor<'_>) -> Option<Constraint> {
    let name = if cursor.eat("CONSTRAINT") { cursor.identifier() } else { None };
    let kind = if cursor.eat("CHECK") {
        ConstraintKind::Check(cursor.parens().and_then(not_null_column))
    } else if cursor.eat("NOT NULL") {
        ConstraintKind::NotNull(cursor.identifier()?)
    } else if cursor.at("PRIMARY KEY") || cursor.at("UNIQUE") {
        let primary = cursor.eat("PRIMARY KEY");
        if !primary {
            cursor.skip(1);
        }
        for words in ["NULLS NOT DISTINCT", "NULLS DISTINCT"] {
            cursor.eat(words);
        }
        let using_index = cursor.at("USING INDEX");
        let columns = cursor.parens().map(|inside| inside.columns()).unwrap_or_default();
        ConstraintKind::Unique {
            columns,
            using_index,
            primary,
        }
    } else if cursor.eat("EXCLUDE") {
        ConstraintKind::Exclude
    } else if cursor.eat("FOREIGN KEY") {
        let columns = cursor.parens().map(|inside| inside.columns()).unwrap_or_default();
        if !cursor.eat("REFERENCES") {
            return None;
        }
        ConstraintKind::ForeignKey {
            columns,
            parent: cursor.name()?,
        }
    } else {
        return None;
    };
    let not_valid = cursor.has("NOT VALID");
    Some(Constraint { name, kind, not_valid })
}

/// The column of `column IS NOT NULL`.
fn not_null_column(mut inside: Cursor<'_>) -> Option<String> {
    while inside.peek()?.is_symbol("(") {
        inside = inside.parens()?;
    }
    let column = inside.identifier()?;
    (inside.eat("IS NOT NULL") && inside.peek().is_none()).then_some(column)
}
