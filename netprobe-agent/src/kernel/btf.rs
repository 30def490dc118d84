//! A reader of BTF, the kernel's type information: just enough to turn `struct.member.member` into a byte offset.
//!
//! Our own because the loader keeps its members private; see `docs/decisions`.

use std::collections::HashMap;

const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
const MAX_TYPEDEFS: usize = 32;
const MAX_NESTING: usize = 16;
/// Members looked at for one name. The largest kernel structs have some hundreds; structs that hold themselves, in
/// bytes made up, would otherwise be searched for ever.
const MAX_MEMBERS: usize = 100_000;

mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FWD: u32 = 7;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const FLOAT: u32 = 16;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// Why type information cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// Not BTF, or not of this machine's byte order.
    #[error("not BTF: {0}")]
    Malformed(&'static str),
    /// A kind newer than this reader: the length of what follows is unknown.
    #[error("BTF kind {0} is not known")]
    UnknownKind(u32),
    /// The kernel has no such struct, function or enum value.
    #[error("this kernel has no `{0}`")]
    NoType(String),
    /// The struct has no such member.
    #[error("this kernel's `{path}` has no member `{member}`")]
    NoMember {
        /// Path up to the struct.
        path: String,
        /// The member that is missing.
        member: String,
    },
    /// The member is a bit field, which has no byte offset.
    #[error("`{0}` is a bit field on this kernel")]
    BitField(String),
}

/// Parsed type information.
#[derive(Debug)]
pub struct Btf {
    data: Vec<u8>,
    strings: usize,
    /// Position of every type, by id; 0 is void.
    types: Vec<usize>,
    structs: HashMap<String, u32>,
    functions: HashMap<String, u32>,
}

#[derive(Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    kind: u32,
    entries: usize,
    flag: bool,
    size_or_type: u32,
}

impl Btf {
    /// Type information of the running kernel.
    pub fn of_kernel() -> std::io::Result<Result<Btf, BtfError>> {
        Ok(Btf::parse(&std::fs::read("/sys/kernel/btf/vmlinux")?))
    }

    /// Parses raw BTF as in `/sys/kernel/btf/vmlinux`. Never panics, whatever the bytes.
    pub fn parse(data: &[u8]) -> Result<Btf, BtfError> {
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(
                data.get(at..at.checked_add(4)?)?.try_into().ok()?,
            ))
        };
        let short = BtfError::Malformed("shorter than its header says");
        if data.get(..2) != Some(MAGIC.to_ne_bytes().as_slice()) {
            return Err(BtfError::Malformed("the first two bytes are not its mark"));
        }
        let field = |at: usize| word(at).map(|v| v as usize).ok_or(short.clone());
        let header = field(4)?;
        if header < HEADER {
            return Err(BtfError::Malformed("the header is too short"));
        }
        let at = |offset: usize| header.checked_add(offset).ok_or(short.clone());
        let (types_at, types_len) = (at(field(8)?)?, field(12)?);
        let (strings, strings_len) = (at(field(16)?)?, field(20)?);
        let types_end = types_at.checked_add(types_len).ok_or(short.clone())?;
        let strings_end = strings.checked_add(strings_len).ok_or(short.clone())?;
        if types_end > data.len() || strings_end > data.len() {
            return Err(short);
        }

        let mut btf = Btf {
            data: data[..types_end.max(strings_end)].to_vec(),
            strings,
            types: vec![0],
            structs: HashMap::new(),
            functions: HashMap::new(),
        };
        let mut position = types_at;
        while position < types_end {
            let ty = btf.read(position).ok_or(short.clone())?;
            let tail = match ty.kind {
                kind::PTR | kind::FWD | kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT => 0,
                kind::FUNC | kind::FLOAT | kind::TYPE_TAG => 0,
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * ty.entries,
                kind::ENUM | kind::FUNC_PROTO => 8 * ty.entries,
                other => return Err(BtfError::UnknownKind(other)),
            };
            let id = btf.types.len() as u32;
            btf.types.push(position);
            if ty.name != 0 {
                let name = btf.string(ty.name).unwrap_or_default().to_owned();
                match ty.kind {
                    kind::STRUCT | kind::UNION => {
                        btf.structs.entry(name).or_insert(id);
                    }
                    kind::FUNC => {
                        btf.functions.entry(name).or_insert(id);
                    }
                    _ => {}
                }
            }
            position = position.checked_add(12 + tail).ok_or(short.clone())?;
        }
        if position != types_end {
            return Err(short);
        }
        Ok(btf)
    }

    /// Byte offset of `struct.member.member`, through anonymous members and typedefs. Also understood:
    /// `sizeof struct` and `struct.member + ENUM_VALUE` (the member is an array of bytes).
    pub fn offset(&self, path: &str) -> Result<u32, BtfError> {
        if let Some(name) = path.strip_prefix("sizeof ") {
            return Ok(self.struct_named(name)?.size_or_type);
        }
        let (path, extra) = match path.split_once(" + ") {
            Some((path, value)) => (path, self.enum_value(value)?),
            None => (path, 0),
        };
        let mut parts = path.split('.');
        let mut walked = parts.next().unwrap_or_default().to_owned();
        let mut ty = Some(self.struct_named(&walked)?);
        let mut bits = 0u32;
        let too_large = BtfError::Malformed("an offset is too large");
        for member in parts {
            let mut left = MAX_MEMBERS;
            let found = match ty {
                Some(ty) => self.member(ty, member, path, 0, &mut left)?,
                None => None,
            };
            let (offset, member_type) = found.ok_or_else(|| BtfError::NoMember {
                path: walked.clone(),
                member: member.to_owned(),
            })?;
            bits = bits.checked_add(offset).ok_or(too_large.clone())?;
            walked = format!("{walked}.{member}");
            ty = self.resolve(member_type);
        }
        if !bits.is_multiple_of(8) {
            return Err(BtfError::BitField(path.to_owned()));
        }
        (bits / 8).checked_add(extra).ok_or(too_large)
    }

    /// Number of parameters of a kernel function.
    pub fn parameters(&self, function: &str) -> Result<usize, BtfError> {
        let missing = || BtfError::NoType(function.to_owned());
        let id = self.functions.get(function).ok_or_else(missing)?;
        let proto = self
            .get(*id)
            .and_then(|ty| self.get(ty.size_or_type))
            .ok_or_else(missing)?;
        if proto.kind == kind::FUNC_PROTO {
            Ok(proto.entries)
        } else {
            Err(missing())
        }
    }

    /// Whether the kernel has a function of this name that is not in a module.
    pub fn has_function(&self, function: &str) -> bool {
        self.functions.contains_key(function)
    }

    fn enum_value(&self, name: &str) -> Result<u32, BtfError> {
        for &position in self.types.iter().skip(1) {
            let Some(ty) = self.read(position) else { continue };
            if ty.kind != kind::ENUM {
                continue;
            }
            for entry in 0..ty.entries {
                let at = ty.at + 12 + entry * 8;
                let (Some(entry_name), Some(value)) = (self.word(at), self.word(at + 4)) else {
                    continue;
                };
                if self.string(entry_name) == Some(name) {
                    return Ok(value);
                }
            }
        }
        Err(BtfError::NoType(name.to_owned()))
    }

    fn struct_named(&self, name: &str) -> Result<Type, BtfError> {
        self.structs
            .get(name)
            .and_then(|&id| self.get(id))
            .ok_or_else(|| BtfError::NoType(name.to_owned()))
    }

    /// Offset in bits and type of a member, searched through anonymous structs and unions.
    fn member(
        &self,
        ty: Type,
        wanted: &str,
        path: &str,
        depth: usize,
        left: &mut usize,
    ) -> Result<Option<(u32, u32)>, BtfError> {
        if depth > MAX_NESTING || !matches!(ty.kind, kind::STRUCT | kind::UNION) {
            return Ok(None);
        }
        for entry in 0..ty.entries {
            *left = left
                .checked_sub(1)
                .ok_or(BtfError::Malformed("structs without names hold each other"))?;
            let at = ty.at + 12 + entry * 12;
            let (Some(name), Some(member_type), Some(raw)) =
                (self.word(at), self.word(at + 4), self.word(at + 8))
            else {
                return Err(BtfError::Malformed("a member lies outside"));
            };
            // With the flag set the upper byte is the width of a bit field.
            let (bits, width) = if ty.flag {
                (raw & 0x00ff_ffff, raw >> 24)
            } else {
                (raw, 0)
            };
            if name == 0 {
                if let Some(inner) = self.resolve(member_type)
                    && let Some((offset, found)) = self.member(inner, wanted, path, depth + 1, left)?
                {
                    let bits = bits
                        .checked_add(offset)
                        .ok_or(BtfError::Malformed("an offset is too large"))?;
                    return Ok(Some((bits, found)));
                }
            } else if self.string(name) == Some(wanted) {
                if width != 0 {
                    return Err(BtfError::BitField(path.to_owned()));
                }
                return Ok(Some((bits, member_type)));
            }
        }
        Ok(None)
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<Type> {
        for _ in 0..MAX_TYPEDEFS {
            let ty = self.get(id)?;
            match ty.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = ty.size_or_type;
                }
                _ => return Some(ty),
            }
        }
        None
    }

    fn get(&self, id: u32) -> Option<Type> {
        if id == 0 {
            return None;
        }
        self.read(*self.types.get(id as usize)?)
    }

    fn read(&self, at: usize) -> Option<Type> {
        let info = self.word(at.checked_add(4)?)?;
        Some(Type {
            at,
            name: self.word(at)?,
            kind: (info >> 24) & 0x1f,
            entries: (info & 0xffff) as usize,
            flag: info >> 31 != 0,
            size_or_type: self.word(at.checked_add(8)?)?,
        })
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(
            self.data.get(at..at.checked_add(4)?)?.try_into().ok()?,
        ))
    }

    fn string(&self, offset: u32) -> Option<&str> {
        let bytes = self.data.get(self.strings.checked_add(offset as usize)?..)?;
        let end = bytes.iter().position(|&b| b == 0)?;
        std::str::from_utf8(&bytes[..end]).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One struct `s { u32 a; union { u64 b; }; u32 bits:3; }` and what it needs.
    fn sample() -> Vec<u8> {
        let mut strings = vec![0u8];
        let mut name = |text: &str| {
            let at = strings.len() as u32;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let (s, a, b, bits, u32_name, value) = (
            name("s"),
            name("a"),
            name("b"),
            name("bits"),
            name("u32"),
            name("V_TWO"),
        );
        let words: Vec<u32> = [
            vec![u32_name, kind::INT << 24, 4, 32],     // 1
            vec![0, kind::UNION << 24 | 1, 8, b, 1, 0], // 2
            vec![
                s,
                1 << 31 | kind::STRUCT << 24 | 3,
                24,
                a,
                1,
                0,
                0,
                2,
                64,
                bits,
                1,
                3 << 24 | 128,
            ], // 3
            vec![0, kind::ENUM << 24 | 1, 4, value, 2], // 4
        ]
        .concat();
        let types: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC.to_ne_bytes());
        out.extend_from_slice(&[1, 0]);
        for word in [
            HEADER as u32,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ] {
            out.extend_from_slice(&word.to_ne_bytes());
        }
        out.extend(types);
        out.extend(strings);
        out
    }

    #[test]
    fn finds_members_through_anonymous_unions() {
        let btf = Btf::parse(&sample()).expect("valid");
        assert_eq!(btf.offset("s.a"), Ok(0));
        assert_eq!(btf.offset("s.b"), Ok(8));
        assert_eq!(btf.offset("sizeof s"), Ok(24));
        assert_eq!(btf.offset("s.b + V_TWO"), Ok(10));
    }

    #[test]
    fn names_what_is_missing() {
        let btf = Btf::parse(&sample()).expect("valid");
        assert_eq!(btf.offset("t.a"), Err(BtfError::NoType("t".into())));
        assert_eq!(btf.offset("s.bits"), Err(BtfError::BitField("s.bits".into())));
        assert_eq!(
            btf.offset("s.c"),
            Err(BtfError::NoMember {
                path: "s".into(),
                member: "c".into()
            })
        );
    }

    #[test]
    fn refuses_an_offset_that_does_not_fit() {
        let mut whole = sample();
        let value = 2u32.to_ne_bytes();
        let at = whole
            .windows(4)
            .rposition(|w| w == value)
            .expect("the enum's value");
        whole[at..at + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
        let btf = Btf::parse(&whole).expect("valid");
        assert_eq!(
            btf.offset("s.b + V_TWO"),
            Err(BtfError::Malformed("an offset is too large"))
        );
    }

    #[test]
    fn gives_up_on_structs_that_hold_themselves() {
        // struct s { struct s; struct s; … }, thirty times: 30^16 ways down.
        let members = [0u32, 1, 0].repeat(30);
        let words = [vec![1, kind::STRUCT << 24 | 30, 8], members].concat();
        let types: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let mut out = [MAGIC.to_ne_bytes().as_slice(), &[1, 0]].concat();
        let length = types.len() as u32;
        for word in [HEADER as u32, 0, length, length, 3] {
            out.extend_from_slice(&word.to_ne_bytes());
        }
        out.extend(types);
        out.extend(b"\0s\0");
        let btf = Btf::parse(&out).expect("well formed");
        assert!(matches!(btf.offset("s.a"), Err(BtfError::Malformed(_))));
    }

    #[test]
    fn refuses_every_truncation() {
        let whole = sample();
        for end in 0..whole.len() {
            assert!(
                Btf::parse(&whole[..end]).is_err(),
                "accepted {end} of {} bytes",
                whole.len()
            );
        }
    }

    #[test]
    fn reads_the_running_kernel() {
        let Ok(data) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            panic!("this test needs a kernel with BTF at /sys/kernel/btf/vmlinux");
        };
        let btf = Btf::parse(&data).expect("the kernel's own BTF");
        assert_eq!(btf.offset("sock.__sk_common.skc_daddr"), Ok(0));
        assert_eq!(btf.offset("sock.__sk_common.skc_family"), Ok(16));
    }
}
