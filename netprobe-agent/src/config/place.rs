//! Where something stands in a TOML file, for people.

/// `file, line 3, probe.ring_bytes` of what an error of the parser points to.
pub(super) fn of_error(name: &str, text: &str, error: &toml::de::Error) -> String {
    let Some(span) = error.span() else {
        return name.to_owned();
    };
    let before = text.get(..span.start).unwrap_or(text);
    let number = before.matches('\n').count() + 1;
    match key_at(text, number) {
        Some(key) => format!("{name}, line {number}, {key}"),
        None => format!("{name}, line {number}"),
    }
}

/// Line of `key` in `[section]`, or of the table `[section.key]`.
pub(super) fn of_key(text: &str, section: &str, key: &str) -> Option<usize> {
    let wanted = format!("{section}.{key}");
    (1..=text.lines().count()).find(|number| {
        let line = text.lines().nth(number - 1).unwrap_or_default().trim();
        match header(line) {
            Some(name) => name == wanted || name.starts_with(&format!("{wanted}.")),
            None => key_of(line).is_some() && key_at(text, *number).as_deref() == Some(wanted.as_str()),
        }
    })
}

/// The key a line belongs to, with its section: its own, or that of the list it stands in.
fn key_at(text: &str, number: usize) -> Option<String> {
    let above: Vec<_> = text.lines().take(number).map(str::trim).collect();
    if header(above.last()?).is_some() {
        return None;
    }
    let key = above
        .iter()
        .rev()
        .take_while(|line| header(line).is_none())
        .find_map(|line| key_of(line))?;
    let section = above.iter().rev().find_map(|line| header(line));
    Some(section.map_or_else(|| key.to_owned(), |section| format!("{section}.{key}")))
}

/// `probe` of `[probe]`.
fn header(line: &str) -> Option<&str> {
    let name = line.strip_prefix('[')?.split(']').next()?.trim();
    // The first line of a nested list begins like that, too.
    (!name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._- ".contains(c)))
    .then_some(name)
}

/// `ring_bytes` of `ring_bytes = 65536`.
fn key_of(line: &str) -> Option<&str> {
    if line.starts_with('#') {
        return None;
    }
    let key = line.split_once('=')?.0.trim().trim_matches('"');
    (!key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-/:".contains(c)))
    .then_some(key)
}
