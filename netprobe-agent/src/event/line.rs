//! Writing an event as JSON, byte for byte what `serde_json` writes (a property test holds them equal), in about half
//! the time: most of `serde_json`'s goes into looking for characters to escape, in the names of the schema too, which
//! are known to have none.
//!
//! Numbers, and text that does need an escape, are `serde_json`'s. The schema stays described once, by `derive`.

use std::io;

use serde::{
    Serialize, Serializer,
    ser::{Error as _, Impossible, SerializeSeq, SerializeStruct},
};
use serde_json::Error;

/// Room made at a time: most events need it once.
const ROOM: usize = 2048;

/// Appends `value` as JSON. After an error the line is as it was.
pub(super) fn write<T: Serialize>(value: &T, line: &mut Vec<u8>) -> Result<(), Error> {
    let begin = line.len();
    let mut out = Out { line, end: begin };
    let written = value.serialize(&mut out);
    let end = if written.is_ok() { out.end } else { begin };
    line.truncate(end);
    written
}

/// Where JSON is written. The line is longer than what is written, so that a part needs one look at its length.
struct Out<'a> {
    line: &'a mut Vec<u8>,
    end: usize,
}

impl Out<'_> {
    /// The next `len` bytes.
    #[inline(always)]
    fn take(&mut self, len: usize) -> &mut [u8] {
        let begin = self.end;
        self.end = begin + len;
        if self.line.len() < self.end {
            self.grow();
        }
        &mut self.line[begin..][..len]
    }

    #[cold]
    fn grow(&mut self) {
        self.line.resize(self.end + ROOM, 0);
    }

    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        self.take(bytes.len()).copy_from_slice(bytes);
    }

    /// Text that needs no escape.
    #[inline(always)]
    fn quote(&mut self, text: &str) {
        let room = self.take(text.len() + 2);
        room[0] = b'"';
        room[1..][..text.len()].copy_from_slice(text.as_bytes());
        room[text.len() + 1] = b'"';
    }

    /// Ends a list or an object: the comma after its last part, if it has one, makes way.
    fn close(&mut self, bracket: u8) {
        match self.line[..self.end].last_mut() {
            Some(last @ b',') => *last = bracket,
            _ => self.put(&[bracket]),
        }
    }
}

/// For `serde_json`.
impl io::Write for &mut Out<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether JSON has the text as it stands: no control character, quote or backslash. Eight bytes at a time, the last
/// eight of a longer text twice if need be.
fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (words, rest) = bytes.as_chunks::<8>();
    let mut special = 0;
    for word in words {
        special |= special_bytes(*word);
    }
    match bytes.last_chunk::<8>() {
        Some(last) => special | special_bytes(*last) == 0,
        None => !rest
            .iter()
            .any(|byte| *byte < b' ' || *byte == b'"' || *byte == b'\\'),
    }
}

/// Not zero when a byte of the word needs an escape: subtracting `limit` from a byte below it borrows its high bit.
const fn special_bytes(word: [u8; 8]) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    const fn below(word: u64, limit: u8) -> u64 {
        word.wrapping_sub(ONES * limit as u64) & !word
    }
    let word = u64::from_ne_bytes(word);
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    (below(word, b' ') | below(quote, 1) | below(backslash, 1)) & HIGH
}

/// What no event has in it.
fn foreign<T>(what: &str) -> Result<T, Error> {
    Err(Error::custom(format_args!("an event has no {what}")))
}

macro_rules! by_serde_json {
    ($($method:ident: $type:ty,)*) => {
        $(fn $method(self, value: $type) -> Result<(), Error> {
            serde_json::to_writer(self, &value)
        })*
    };
}

impl<'a, 'l> Serializer for &'a mut Out<'l> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = List<'a, 'l>;
    type SerializeTuple = Impossible<(), Error>;
    type SerializeTupleStruct = Impossible<(), Error>;
    type SerializeTupleVariant = Impossible<(), Error>;
    type SerializeMap = Impossible<(), Error>;
    type SerializeStruct = Object<'a, 'l>;
    type SerializeStructVariant = Impossible<(), Error>;

    by_serde_json! {
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_f32: f32,
        serialize_f64: f64,
        serialize_char: char,
    }

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.put(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn serialize_str(self, text: &str) -> Result<(), Error> {
        if !is_plain(text) {
            return serde_json::to_writer(self, text);
        }
        self.quote(text);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_some<T: ?Sized + Serialize>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    #[inline(always)]
    fn serialize_unit(self) -> Result<(), Error> {
        self.put(b"null");
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, name: &'static str) -> Result<(), Error> {
        debug_assert!(is_plain(name), "{name}");
        self.quote(name);
        Ok(())
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<List<'a, 'l>, Error> {
        self.put(b"[");
        Ok(List(self))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Object<'a, 'l>, Error> {
        self.put(b"{");
        Ok(Object(self))
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), Error> {
        foreign("bytes")
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        foreign("unit struct")
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Error> {
        foreign("variant with a value")
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Error> {
        foreign("tuple")
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Error> {
        foreign("tuple")
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Error> {
        foreign("variant with values")
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Error> {
        foreign("map")
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        foreign("variant with fields")
    }
}

/// A list begun.
struct List<'a, 'l>(&'a mut Out<'l>);

impl SerializeSeq for List<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(&mut *self.0)?;
        self.0.put(b",");
        Ok(())
    }

    fn end(self) -> Result<(), Error> {
        self.0.close(b']');
        Ok(())
    }
}

/// An object begun.
struct Object<'a, 'l>(&'a mut Out<'l>);

impl SerializeStruct for Object<'_, '_> {
    type Ok = ();
    type Error = Error;

    // Inlined, the key is a constant of known length: it is stored, not copied in a loop.
    #[inline(always)]
    fn serialize_field<T: ?Sized + Serialize>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        debug_assert!(is_plain(key), "{key}");
        let room = self.0.take(key.len() + 3);
        room[0] = b'"';
        room[1..][..key.len()].copy_from_slice(key.as_bytes());
        room[key.len() + 1..].copy_from_slice(b"\":");
        value.serialize(&mut *self.0)?;
        self.0.put(b",");
        Ok(())
    }

    fn end(self) -> Result<(), Error> {
        self.0.close(b'}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn finds_each_special_character_at_each_place() {
        for len in 1..30 {
            for at in 0..len {
                for character in (0..=127_u8).map(char::from).chain(['ä', '✓']) {
                    let mut text: Vec<_> = "abcdefghijklmnopqrstuvwxyz~!#[]".chars().take(len).collect();
                    text[at] = character;
                    let text = text.into_iter().collect::<String>();
                    let quoted = serde_json::to_string(&text).expect("text is JSON");
                    assert_eq!(is_plain(&text), quoted.len() == text.len() + 2, "{quoted}");
                }
            }
        }
    }
}
