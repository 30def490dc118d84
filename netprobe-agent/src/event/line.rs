//! Writing an event as JSON, byte for byte what `serde_json` writes (a property test holds them equal), in about half
//! the time: nearly half of `serde_json`'s is spent looking for characters to escape in the names of the schema, which
//! are known to have none.
//!
//! Numbers, and text that does need an escape, are `serde_json`'s. The schema stays described once, by `derive`.

use serde::{
    Serialize, Serializer,
    ser::{Error as _, Impossible, SerializeSeq, SerializeStruct},
};
use serde_json::Error;

/// Appends `value` as JSON.
pub(super) fn write<T: Serialize>(value: &T, line: &mut Vec<u8>) -> Result<(), Error> {
    value.serialize(Line(line))
}

/// Where JSON is appended.
struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    /// A name of the schema: it has nothing to escape.
    #[inline(always)]
    fn name(&mut self, name: &'static str) {
        debug_assert!(is_plain(name), "{name}");
        self.0.reserve(name.len() + 3);
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'"');
    }
}

/// Whether JSON has the text as it stands. Without early exit, so that it is a few vector instructions.
fn is_plain(text: &str) -> bool {
    let special = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    !text.bytes().fold(false, |found, byte| found | special(byte))
}

/// What no event has in it.
fn foreign<T>(what: &str) -> Result<T, Error> {
    Err(Error::custom(format_args!("an event has no {what}")))
}

macro_rules! by_serde_json {
    ($($method:ident: $type:ty,)*) => {
        $(fn $method(self, value: $type) -> Result<(), Error> {
            serde_json::to_writer(self.0, &value)
        })*
    };
}

impl<'a> Serializer for Line<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = List<'a>;
    type SerializeTuple = Impossible<(), Error>;
    type SerializeTupleStruct = Impossible<(), Error>;
    type SerializeTupleVariant = Impossible<(), Error>;
    type SerializeMap = Impossible<(), Error>;
    type SerializeStruct = Object<'a>;
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
        self.0.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn serialize_str(self, text: &str) -> Result<(), Error> {
        if !is_plain(text) {
            return serde_json::to_writer(self.0, text);
        }
        self.0.reserve(text.len() + 3);
        self.0.push(b'"');
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'"');
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
        self.0.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_unit_variant(mut self, _: &'static str, _: u32, name: &'static str) -> Result<(), Error> {
        self.name(name);
        Ok(())
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<List<'a>, Error> {
        self.0.push(b'[');
        Ok(List(self.0))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Object<'a>, Error> {
        self.0.push(b'{');
        Ok(Object(self.0))
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
struct List<'a>(&'a mut Vec<u8>);

impl SerializeSeq for List<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(Line(self.0))?;
        self.0.push(b',');
        Ok(())
    }

    fn end(self) -> Result<(), Error> {
        close(self.0, b']');
        Ok(())
    }
}

/// An object begun.
struct Object<'a>(&'a mut Vec<u8>);

impl SerializeStruct for Object<'_> {
    type Ok = ();
    type Error = Error;

    // Inlined, the name is a constant of known length: it is stored, not copied in a loop.
    #[inline(always)]
    fn serialize_field<T: ?Sized + Serialize>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        Line(self.0).name(key);
        self.0.push(b':');
        value.serialize(Line(self.0))?;
        self.0.push(b',');
        Ok(())
    }

    fn end(self) -> Result<(), Error> {
        close(self.0, b'}');
        Ok(())
    }
}

/// Ends a list or an object: the comma after its last part, if it has one, makes way.
fn close(line: &mut Vec<u8>, bracket: u8) {
    match line.last_mut() {
        Some(last @ b',') => *last = bracket,
        _ => line.push(bracket),
    }
}
