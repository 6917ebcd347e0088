//! A condition's text, cut into tokens as its database would, and looked through for what would make it mean something else than it
//! says: a second statement, hidden parts, other rows, and values that change between the plan and the run. What a function is
//! declared to be, only the database knows: its adapter asks for that. Pure. Called by the rule kind `filter`.

use crate::model::EngineKind;

/// Words that are a changing value wherever they stand, on either database.
const CLOCKS: [&str; 5] = [
    "current_timestamp",
    "current_date",
    "current_time",
    "localtime",
    "localtimestamp",
];

/// Functions whose value changes from one call, one session or one moment to the next. Those that PostgreSQL declares volatile are
/// found by its adapter as well; these are refused before any database is asked.
const UNSTABLE: [&str; 24] = [
    "now",
    "random",
    "random_normal",
    "randomblob",
    "clock_timestamp",
    "statement_timestamp",
    "transaction_timestamp",
    "timeofday",
    "gen_random_uuid",
    "uuidv4",
    "uuidv7",
    "nextval",
    "currval",
    "lastval",
    "setval",
    "pg_sleep",
    "txid_current",
    "pg_current_xact_id",
    "pg_backend_pid",
    "changes",
    "total_changes",
    "last_insert_rowid",
    "load_extension",
    "set_config",
];

/// SQLite's functions of a time; without one they take the present.
const SQLITE_TIMES: [&str; 7] = ["date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff"];
/// What these functions take for the present.
const SQLITE_NOW: [&str; 3] = ["now", "subsec", "subsecond"];

/// Words that PostgreSQL replaces by the present or its day where it reads text as a time.
const POSTGRES_NOW: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];
/// Types whose values are read from such text.
const POSTGRES_TIMES: [&str; 11] = [
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamptz",
    "daterange",
    "tsrange",
    "tstzrange",
    "datemultirange",
    "tsmultirange",
    "tstzmultirange",
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// Lower-cased.
    Word(String),
    /// An identifier in quotes, as it is.
    Quoted(String),
    /// A string.
    Literal(String),
    Number,
    Symbol(char),
}

impl Token {
    fn word(&self) -> Option<&str> {
        if let Self::Word(word) = self { Some(word) } else { None }
    }

    /// A name, quoted or not.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Word(name) | Self::Quoted(name) => Some(name),
            Self::Literal(_) | Self::Number | Self::Symbol(_) => None,
        }
    }

    fn is(&self, symbol: char) -> bool {
        *self == Self::Symbol(symbol)
    }
}

/// A condition that has passed the checks that need no schema.
pub(super) struct Text<'a> {
    engine: EngineKind,
    text: &'a str,
    tokens: Vec<Token>,
}

impl<'a> Text<'a> {
    /// # Errors
    /// Where the text could end the statement around it, hide part of it, ask other rows, or change from one moment to the next.
    pub(super) fn read(engine: EngineKind, text: &'a str) -> Result<Self, String> {
        let tokens = tokens(engine, text).map_err(|what| format!("condition {text:?} {what}"))?;
        let read = Self { engine, text, tokens };
        read.check_balance()?;
        read.check_words()?;
        read.check_literals()?;
        if read.names().next().is_none() {
            return read.refuse("names no column; expected a condition on the table's columns");
        }
        Ok(read)
    }

    fn refuse<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("condition {:?} {what}", self.text))
    }

    fn refuse_present<T>(&self, what: &str) -> Result<T, String> {
        self.refuse(&format!(
            "{what}, whose value changes between plan and run; expected kind \"expired\" for ages"
        ))
    }

    /// Its names and words, quoted or not.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().filter_map(Token::name)
    }

    /// The names and words that may be columns where they stand: not those of a function, of a type that something is cast to, and of a
    /// type before its literal.
    pub(super) fn readable(&self) -> impl Iterator<Item = &str> {
        let is_cast = |place: usize| place >= 2 && self.tokens[place - 2..place].iter().all(|token| token.is(':'));
        let is_type = |place: usize| matches!(self.tokens.get(place + 1), Some(Token::Literal(_)));
        let places = self.tokens.iter().enumerate();
        let places = places.filter(move |(place, _)| !self.follows(*place, '(') && !is_cast(*place) && !is_type(*place));
        places.filter_map(|(_, token)| token.name())
    }

    fn follows(&self, place: usize, symbol: char) -> bool {
        self.tokens.get(place + 1).is_some_and(|token| token.is(symbol))
    }

    /// The function that is called at a place, as the database compares its name.
    fn called(&self, place: usize) -> Option<String> {
        let name = self.tokens.get(place)?.name()?;
        let folded = match self.engine {
            EngineKind::Postgres => name.to_owned(),
            EngineKind::Sqlite => name.to_lowercase(),
        };
        self.follows(place, '(').then_some(folded)
    }

    /// Names before a parenthesis, with their schema where one is named.
    pub(super) fn functions(&self) -> Vec<(Option<String>, String)> {
        let called = (0..self.tokens.len()).filter_map(|place| Some((place, self.called(place)?)));
        let with_schema = called.map(|(place, name)| {
            let schema = match place.checked_sub(2).map(|before| &self.tokens[before..place]) {
                Some([schema, dot]) if dot.is('.') => schema.name().map(str::to_owned),
                _ => None,
            };
            (schema, name)
        });
        with_schema.collect()
    }

    fn check_balance(&self) -> Result<(), String> {
        let mut depth = 0_usize;
        for token in &self.tokens {
            if token.is('(') {
                depth += 1;
            } else if token.is(')') {
                let Some(less) = depth.checked_sub(1) else {
                    return self.refuse("closes a parenthesis that it did not open");
                };
                depth = less;
            }
        }
        if depth == 0 {
            Ok(())
        } else {
            self.refuse("leaves a parenthesis open")
        }
    }

    fn check_words(&self) -> Result<(), String> {
        // What other tables hold could change between the recheck and the commit without anybody noticing.
        const OTHERS: &str = "asks other rows; expected a condition on the row's own columns (kind \"orphan\" looks at parents)";
        for (place, token) in self.tokens.iter().enumerate() {
            if let Some(function) = self.called(place) {
                if UNSTABLE.contains(&function.as_str()) {
                    return self.refuse_present(&format!("uses {function}"));
                }
                // They run a query of their own.
                if self.engine == EngineKind::Postgres && function.contains("_to_xml") {
                    return self.refuse(OTHERS);
                }
            }
            let Some(word) = token.word() else { continue };
            let next = self.tokens.get(place + 1);
            match word {
                "select" | "table" => return self.refuse(OTHERS),
                "values" if self.follows(place, '(') => return self.refuse(OTHERS),
                "with" if next.and_then(Token::word) != Some("time") => return self.refuse(OTHERS),
                // `x IN t` reads a table on SQLite.
                "in" if self.engine == EngineKind::Sqlite && !self.follows(place, '(') => return self.refuse(OTHERS),
                "uescape" => return self.refuse("escapes characters by UESCAPE; expected them as they are"),
                // A column of such a name can be written in quotes.
                _ if CLOCKS.contains(&word) || word == "now" || word == "random" => {
                    return self.refuse_present(&format!("uses {word}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// PostgreSQL reads some words as the present wherever text becomes a time, which it often does without a word.
    fn check_literals(&self) -> Result<(), String> {
        if self.engine == EngineKind::Sqlite {
            return Ok(());
        }
        for (place, token) in self.tokens.iter().enumerate() {
            let Token::Literal(literal) = token else { continue };
            if matches!(self.tokens.get(place + 1), Some(Token::Literal(_))) {
                return self.refuse("has two literals side by side, which are one to the database; expected one");
            }
            let pattern = place.checked_sub(1).and_then(|before| self.tokens[before].word());
            if matches!(pattern, Some("like" | "ilike")) && !self.follows(place, ':') {
                continue;
            }
            if let Some(word) = present_in(literal) {
                return self.refuse_present(&format!("has the literal '{literal}', and {word} in it can mean the present"));
            }
        }
        Ok(())
    }

    /// Place of the parenthesis that closes the one at `open`.
    fn closing(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for (place, token) in self.tokens.iter().enumerate().skip(open) {
            if token.is('(') {
                depth += 1;
            } else if token.is(')') {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return place;
                }
            }
        }
        self.tokens.len()
    }

    /// Place of the parenthesis that the one at `close` closes.
    fn opening(&self, close: usize) -> usize {
        let mut depth = 0_usize;
        for place in (0..=close).rev() {
            if self.tokens[place].is(')') {
                depth += 1;
            } else if self.tokens[place].is('(') {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return place;
                }
            }
        }
        0
    }

    /// The parts of tokens between parentheses, cut where `separates` says so outside of inner ones.
    fn parts(&self, from: usize, to: usize, separates: impl Fn(&Token) -> bool) -> Vec<&[Token]> {
        let inside = &self.tokens[from..to];
        let (mut parts, mut begin, mut depth) = (Vec::new(), 0, 0_usize);
        for (place, token) in inside.iter().enumerate() {
            if token.is('(') {
                depth += 1;
            } else if token.is(')') {
                depth = depth.saturating_sub(1);
            } else if depth == 0 && separates(token) {
                parts.push(&inside[begin..place]);
                begin = place + 1;
            }
        }
        if begin < inside.len() {
            parts.push(&inside[begin..]);
        }
        parts
    }

    /// Looks at whatever becomes a time: it must come from a column, or be a plain literal.
    ///
    /// # Errors
    /// Where it is, or could come out as, the present.
    pub(super) fn check_times(&self, is_column: impl Fn(&str) -> bool) -> Result<(), String> {
        match self.engine {
            EngineKind::Sqlite => self.check_sqlite_times(&is_column),
            EngineKind::Postgres => self.check_postgres_times(&is_column),
        }
    }

    /// A column, which is no function's name.
    fn reads(tokens: &[Token], is_column: &impl Fn(&str) -> bool) -> bool {
        let mut places = 0..tokens.len();
        places
            .any(|place| tokens[place].name().is_some_and(is_column) && !tokens.get(place + 1).is_some_and(|token| token.is('(')))
    }

    fn check_sqlite_times(&self, is_column: &impl Fn(&str) -> bool) -> Result<(), String> {
        for (place, token) in self.tokens.iter().enumerate() {
            // SQLite takes a quoted word that is no column for a string.
            if let Token::Quoted(name) = token
                && !self.follows(place, '(')
                && !is_column(name)
            {
                return self.refuse(&format!(
                    "names \"{name}\", which is no column; expected a string in single quotes"
                ));
            }
            let Some(function) = self.called(place).filter(|name| SQLITE_TIMES.contains(&name.as_str())) else {
                continue;
            };
            let arguments = self.parts(place + 2, self.closing(place + 1), |token| token.is(','));
            let times = match function.as_str() {
                "strftime" => arguments.get(1..2),
                "timediff" => arguments.get(..2),
                _ => arguments.get(..1),
            };
            for time in times.unwrap_or(&[&[]]) {
                let literal = |token: &Token| match token {
                    Token::Literal(text) => Some(text.to_lowercase()),
                    _ => None,
                };
                let present = time
                    .iter()
                    .filter_map(literal)
                    .any(|text| SQLITE_NOW.contains(&text.as_str()));
                let plain = matches!(time, [Token::Literal(_) | Token::Number]);
                if present || !plain && !Self::reads(time, is_column) {
                    return self.refuse_present(&format!("uses {function} of the present, or of no column"));
                }
            }
        }
        Ok(())
    }

    fn check_postgres_times(&self, is_column: &impl Fn(&str) -> bool) -> Result<(), String> {
        let fixed = |operand: &[Token]| matches!(operand, [Token::Literal(_) | Token::Number]) || Self::reads(operand, is_column);
        for place in 0..self.tokens.len() {
            let called = self.called(place);
            if called.as_deref() == Some("age") {
                let arguments = self.parts(place + 2, self.closing(place + 1), |token| token.is(','));
                if arguments.len() != 2 {
                    return self.refuse_present("uses age of one time, which reckons from today");
                }
            }
            let operand = if called.as_deref() == Some("cast") {
                let end = self.closing(place + 1);
                let [operand, type_name] = self.parts(place + 2, end, |token| token.word() == Some("as"))[..] else {
                    continue;
                };
                type_name.iter().any(is_time_type).then_some(operand)
            } else if called.as_deref().is_some_and(|name| POSTGRES_TIMES.contains(&name)) {
                let (begin, end) = (place + 2, self.closing(place + 1));
                // `timestamp(3)` is a type and no call.
                Some(&self.tokens[begin..end]).filter(|inside| **inside != [Token::Number])
            } else if self.tokens[place].is(':') && self.follows(place, ':') && self.is_cast_to_time(place + 2) {
                Some(self.before_cast(place))
            } else {
                None
            };
            if operand.is_some_and(|operand| !fixed(operand)) {
                return self.refuse_present("makes a time of something that is neither a column nor a plain literal");
            }
        }
        Ok(())
    }

    /// Whether the type that is named from here is one of a time, with or without its schema.
    fn is_cast_to_time(&self, place: usize) -> bool {
        let begin = if self.follows(place, '.') { place + 2 } else { place };
        self.tokens.get(begin).is_some_and(is_time_type)
    }

    /// What a `::` at this place is about: a literal, a name, or what stands in parentheses; before other casts of it.
    fn before_cast(&self, cast: usize) -> &[Token] {
        let Some(mut last) = cast.checked_sub(1) else { return &[] };
        while self.tokens[last].is(']') {
            let open = self.tokens[..last].iter().rposition(|token| token.is('['));
            let Some(before) = open.and_then(|open| open.checked_sub(1)) else {
                return &[];
            };
            last = before;
        }
        let mut begin = if self.tokens[last].is(')') { self.opening(last) } else { last };
        if begin < last && begin > 0 && self.tokens[begin - 1].name().is_some() {
            begin -= 1;
        }
        let is_colon = |place: usize| self.tokens.get(place).is_some_and(|token| token.is(':'));
        match begin.checked_sub(2) {
            Some(colons) if is_colon(colons) && is_colon(colons + 1) => self.before_cast(colons),
            _ => &self.tokens[begin..cast],
        }
    }
}

/// The word of a literal that PostgreSQL takes for the present where it reads a time.
pub(in crate::rule) fn present_in(literal: &str) -> Option<&'static str> {
    let lower = literal.to_lowercase();
    let mut words = lower.split(|character: char| !character.is_alphabetic());
    words.find_map(|word| POSTGRES_NOW.into_iter().find(|present| *present == word))
}

fn is_time_type(token: &Token) -> bool {
    token.name().is_some_and(|name| POSTGRES_TIMES.contains(&name))
}

/// Cuts a text into tokens.
fn tokens(engine: EngineKind, text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let quote = match character {
            '\'' | '"' | '`' => Some(character),
            '[' if engine == EngineKind::Sqlite => Some(']'),
            _ => None,
        };
        if let Some(quote) = quote {
            let mut word = String::new();
            loop {
                match characters.next() {
                    None => return Err("has a quote without an end; expected a whole condition".to_owned()),
                    Some(next) if next == quote && quote != ']' && characters.peek() == Some(&quote) => {
                        characters.next();
                        word.push(quote);
                    }
                    Some(next) if next == quote => break,
                    Some('\\') => {
                        return Err("has a backslash in quotes; expected none, since its meaning depends on settings".to_owned());
                    }
                    Some(next) => word.push(next),
                }
            }
            found.push(if quote == '\'' {
                Token::Literal(word)
            } else {
                Token::Quoted(word)
            });
            continue;
        }
        match character {
            ';' => return Err("has a semicolon; expected one condition".to_owned()),
            '$' | '?' => return Err("has a parameter or a dollar quote; expected plain values".to_owned()),
            '-' if characters.peek() == Some(&'-') => return Err("has a comment; expected none".to_owned()),
            '/' if characters.peek() == Some(&'*') => return Err("has a comment; expected none".to_owned()),
            first if first.is_alphabetic() || first == '_' => {
                let mut word = first.to_lowercase().collect::<String>();
                while let Some(next) = characters.peek().filter(|next| next.is_alphanumeric() || **next == '_') {
                    word.extend(next.to_lowercase());
                    characters.next();
                }
                found.push(Token::Word(word));
            }
            first if first.is_ascii_digit() => {
                while characters
                    .next_if(|next| next.is_ascii_alphanumeric() || matches!(*next, '.' | '_'))
                    .is_some()
                {}
                found.push(Token::Number);
            }
            other if other.is_whitespace() => {}
            other => found.push(Token::Symbol(other)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [&str; 5] = ["id", "at", "title", "opened", "values"];

    fn check(engine: EngineKind, text: &str) -> Result<(), String> {
        Text::read(engine, text)?.check_times(|word| COLUMNS.contains(&word))
    }

    fn refused(engine: EngineKind, texts: &[&str]) {
        for text in texts {
            assert!(check(engine, text).is_err(), "{engine:?}: {text}");
        }
    }

    fn taken(engine: EngineKind, texts: &[&str]) {
        for text in texts {
            assert_eq!(check(engine, text), Ok(()), "{engine:?}: {text}");
        }
    }

    const BOTH: [EngineKind; 2] = [EngineKind::Postgres, EngineKind::Sqlite];

    #[test]
    fn what_would_mean_something_else_is_refused() {
        for engine in BOTH {
            refused(
                engine,
                &[
                    "id = 1; DROP TABLE t",
                    "id = 1) OR (1 = 1",
                    "(id = 1",
                    "title = 'x",
                    "id = 1 -- and b = 2",
                    "id /* b */ = 1",
                    "id = $1",
                    "id = ?",
                    "title = '\\''",
                    "1 = 1",
                    "'a' = 'a'",
                ],
            );
        }
        let names = |text: &str| {
            let read = Text::read(EngineKind::Postgres, text).expect("a condition");
            read.names().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            names("\"Odd Name\" = 'it''s; -- no comment' AND Status IN ('A', 'B') AND (x - 1e5) > 2"),
            ["Odd Name", "and", "status", "in", "and", "x"]
        );
    }

    #[test]
    fn other_rows_are_not_asked() {
        for engine in BOTH {
            refused(
                engine,
                &[
                    "id IN (SELECT id FROM u)",
                    "id IN (TABLE u)",
                    "id IN (VALUES (1), (2))",
                    "id IN (WITH x AS (SELECT 1) SELECT * FROM x)",
                    "EXISTS (VALUES (1)) AND id = 1",
                ],
            );
            taken(engine, &["id IN (1, 2)", "values > 3"]);
        }
        refused(EngineKind::Sqlite, &["id IN u", "id NOT IN \"title\"", "id IN u(1)"]);
        refused(
            EngineKind::Postgres,
            &[
                "length(query_to_xml('x', true, true, '')::text) > id",
                "title = U&'!006e' UESCAPE '!'",
            ],
        );
        taken(
            EngineKind::Postgres,
            &[
                "position('a' in title) > 0",
                "CAST(title AS timestamp with time zone) < '2020-01-01'",
            ],
        );
    }

    #[test]
    fn the_present_is_refused_on_both() {
        for engine in BOTH {
            refused(
                engine,
                &[
                    "at < now()",
                    "at < NOW ( )",
                    "at < CURRENT_TIMESTAMP",
                    "at < current_date",
                    "random() < 0.5 AND id = 1",
                    "title = \"now\"() AND id = 1",
                ],
            );
            taken(engine, &["\"at\" < '2020-01-01'"]);
        }
    }

    #[test]
    fn sqlite_times_are_those_of_columns() {
        refused(
            EngineKind::Sqlite,
            &[
                "at < datetime('now')",
                "at < datetime()",
                "at < datetime('NOW', '-1 day')",
                "at < date('now', '-30 days')",
                "at < [datetime]('now')",
                "at < \"datetime\"('now')",
                "at < datetime(\"now\")",
                "at < datetime('no' || 'w')",
                "at < datetime(x'6e6f77')",
                "at < datetime(lower('NoW'))",
                "at < datetime(coalesce(title, 'now'))",
                "at < unixepoch('subsec')",
                "at < julianday()",
                "at < strftime('%s')",
                "at < strftime(title)",
                "at < strftime('%s', 'now')",
                "timediff(at, 'now') < '-1'",
                "at < time()",
                "title = \"anything\"",
                "randomblob(4) <> title",
                "changes() = id",
            ],
        );
        taken(
            EngineKind::Sqlite,
            &[
                "datetime(at) < '2020-01-01'",
                "datetime(at, '+1 day') < datetime('2020-01-01')",
                "julianday(at) < julianday(opened) - 30",
                "unixepoch(at, 'subsec') < unixepoch('2020-01-01')",
                "strftime('%Y', at) = '2019'",
                "datetime(1000000, 'unixepoch') > at",
                "title = 'now' OR title LIKE '%today%'",
                "[title] = 'x'",
            ],
        );
    }

    #[test]
    fn postgres_times_are_those_of_columns() {
        refused(
            EngineKind::Postgres,
            &[
                "at < 'now'",
                "at < 'now'::timestamp",
                "at < 'yesterday'::date",
                "at < timestamp 'today'",
                "at < date 'tomorrow'",
                "at < CAST('now' AS timestamptz)",
                "at < CAST('Now' AS text)::timestamptz",
                "at < ' TODAY 10:00 '",
                "at < E'today'",
                "at <@ '[yesterday,tomorrow)'::tsrange",
                "at < ('no' || 'w')::timestamp",
                "at < ('no' || 'w')::text::timestamp",
                "at < reverse('won')::timestamp",
                "at < CAST('no' || 'w' AS timestamp)",
                "at < date('no' || 'w')",
                "at < pg_catalog.timestamptz(reverse('won'))",
                "at < ('no' || 'w')::pg_catalog.timestamptz",
                "at < \"timestamp\"('now')",
                "at < 'no'\n'w'",
                "at < (CASE WHEN id = 1 THEN 'x' END || 'now')::date",
                "age(at) > '1 year'",
                "at < clock_timestamp()",
                "id = nextval('s')",
                "title LIKE 'now'::date::text",
            ],
        );
        taken(
            EngineKind::Postgres,
            &[
                "at < '2020-01-01'::date",
                "at < timestamp '2020-01-01'",
                "at < 'epoch'",
                "at::date < '2020-01-01'",
                "title::timestamp < at",
                "(title || ' 10:00')::timestamp < at",
                "lower(title)::date < at",
                "title[1][2]::date < at",
                "CAST(title AS date) < at",
                "at::timestamp(3) < '2020-01-01'",
                "age(at, opened) > '1 year'",
                "date(at) = '2020-01-01'",
                "title LIKE '%today%' OR title ILIKE 'now%'",
                "date_trunc('day', at) = at",
                "title = 'nowhere'",
            ],
        );
    }

    #[test]
    fn functions_are_named_with_their_schema() {
        let read = Text::read(EngineKind::Postgres, "app.f(id) AND \"G\"(title) AND id IN (1)").expect("a condition");
        let names = [(Some("app"), "f"), (None, "G"), (None, "in")];
        let names = names.map(|(schema, name): (Option<&str>, &str)| (schema.map(str::to_owned), name.to_owned()));
        assert_eq!(read.functions(), names);
    }
}
