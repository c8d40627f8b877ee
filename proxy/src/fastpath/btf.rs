//! Where fields are in the running kernel's structures, from its type information (BTF).
//!
//! The format: <https://docs.kernel.org/bpf/btf.html>. A header, then the types, one after the other in a fixed order,
//! then the names.

/// The type information cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// It is not BTF, or ends early.
    #[error("the kernel's type information is damaged at byte {offset}")]
    Damaged {
        /// How far it could be read.
        offset: usize,
    },
    /// The structure has no such field, or not one that is a whole number of bytes away from its start.
    #[error("the kernel has no field {structure}.{field}")]
    NoField {
        /// The structure.
        structure: &'static str,
        /// Its field.
        field: &'static str,
    },
    /// The structure does not begin with this field.
    #[error("the kernel has {structure}.{field} at byte {offset}, not first")]
    NotFirst {
        /// The structure.
        structure: &'static str,
        /// Its field.
        field: &'static str,
        /// Where it is.
        offset: u32,
    },
}

/// An error unless a field is where its structure begins.
pub(super) fn first(btf: &[u8], structure: &'static str, field: &'static str) -> Result<(), BtfError> {
    match offset_of(btf, structure, field)? {
        0 => Ok(()),
        offset => Err(BtfError::NotFirst { structure, field, offset }),
    }
}

/// The offset in bytes of a field that is a direct member of a structure.
pub(super) fn offset_of(btf: &[u8], structure: &'static str, field: &'static str) -> Result<u32, BtfError> {
    let file = File::of(btf)?;
    let missing = BtfError::NoField { structure, field };
    let mut at = file.types.0;
    while at < file.types.1 {
        let info = file.word(at + 4)?;
        let kind = info >> 24 & 0x1f;
        let members = info as usize & 0xffff;
        let body = at + 12;
        if kind == STRUCT && members > 0 && file.name(file.word(at)?)? == structure.as_bytes() {
            for member in (0..members).map(|index| body + index * 12) {
                if file.name(file.word(member)?)? == field.as_bytes() {
                    let offset = file.word(member + 8)?;
                    // With the flag, the upper byte is the size of a bit field.
                    let bits = if info >> 31 == 1 { offset & 0xff_ffff } else { offset };
                    return if bits.is_multiple_of(8) { Ok(bits / 8) } else { Err(missing) };
                }
            }
            return Err(missing);
        }
        at = body + body_len(kind, members).ok_or(BtfError::Damaged { offset: at })?;
    }
    Err(missing)
}

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;

/// The bytes that follow the three words which every type begins with.
fn body_len(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        // Array.
        3 => 12,
        // Structure, union, section, 64-bit enumeration.
        4 | 5 | 15 | 19 => members * 12,
        // Enumeration, function prototype.
        6 | 13 => members * 8,
        _ => return None,
    })
}

/// The bounds of both parts.
struct File<'a> {
    bytes: &'a [u8],
    types: (usize, usize),
    names: (usize, usize),
}

impl<'a> File<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let mut file = Self { bytes, types: (0, 0), names: (0, 0) };
        if file.word(0)? as u16 != MAGIC {
            return Err(BtfError::Damaged { offset: 0 });
        }
        let header = file.word(4)? as usize;
        let part = |offset: u32, len: u32| (header + offset as usize, header + offset as usize + len as usize);
        file.types = part(file.word(8)?, file.word(12)?);
        file.names = part(file.word(16)?, file.word(20)?);
        Ok(file)
    }

    fn word(&self, at: usize) -> Result<u32, BtfError> {
        let bytes = self.bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(BtfError::Damaged { offset: at })?;
        Ok(u32::from_ne_bytes(*bytes))
    }

    fn name(&self, offset: u32) -> Result<&'a [u8], BtfError> {
        let at = self.names.0 + offset as usize;
        let names = self.bytes.get(at..self.names.1).ok_or(BtfError::Damaged { offset: at })?;
        Ok(names.split(|byte| *byte == 0).next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `int`, then `struct pair { int: first at byte 0; int: second at byte 4; int: odd at bit 67 }`.
    fn small() -> Vec<u8> {
        let names = b"\0int\0pair\0first\0second\0odd\0";
        let types: [u32; 4 + 3 + 9] = [
            1,
            1 << 24,
            4,
            32, // int
            5,
            4 << 24 | 3,
            12, // pair
            10,
            1,
            0,
            16,
            1,
            32,
            23,
            1,
            67,
        ];
        let types_len = types.len() as u32 * 4;
        let header: [u32; 6] = [0x1_eb9f, 24, 0, types_len, types_len, names.len() as u32];
        let mut btf: Vec<u8> = header.iter().chain(&types).flat_map(|word| word.to_ne_bytes()).collect();
        btf.extend_from_slice(names);
        btf
    }

    #[test]
    fn fields_are_found_and_the_others_are_named() {
        let btf = small();
        assert_eq!(offset_of(&btf, "pair", "first"), Ok(0));
        assert_eq!(offset_of(&btf, "pair", "second"), Ok(4));
        for (structure, field) in [("pair", "third"), ("pair", "odd"), ("trio", "first"), ("int", "first")] {
            assert_eq!(offset_of(&btf, structure, field), Err(BtfError::NoField { structure, field }));
        }
        assert_eq!(first(&btf, "pair", "first"), Ok(()));
        let (structure, field) = ("pair", "second");
        assert_eq!(first(&btf, structure, field), Err(BtfError::NotFirst { structure, field, offset: 4 }));
    }

    #[test]
    fn damaged_information_is_an_error_wherever_it_ends() {
        let btf = small();
        for end in 0..btf.len() - b"\0odd\0".len() - 6 {
            assert!(offset_of(&btf[..end], "pair", "second").is_err(), "cut at {end}");
        }
        assert_eq!(offset_of(&[0; 64], "pair", "first"), Err(BtfError::Damaged { offset: 0 }));
    }

    #[test]
    fn the_running_kernel_is_understood() {
        let Ok(btf) = std::fs::read(crate::fastpath::kernel::BTF) else {
            eprintln!("skipped: no type information on this machine");
            return;
        };
        let acked = offset_of(&btf, "tcp_sock", "bytes_acked").unwrap();
        assert!(acked > 0 && acked.is_multiple_of(8));
    }
}
