//! What travels, byte by byte.

use std::io::{Read, Write};

use uuid::Uuid;

use crate::CarryError;

pub(crate) const MAGIC: &[u8; 8] = b"WCARRY1\n";
/// Most bytes of one frame.
pub(crate) const FRAME: usize = 1 << 20;
const END: u64 = u64::MAX;
const LONGEST_TEXT: usize = 1_000;

/// What a sender begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) ticket: Uuid,
    pub(crate) name: String,
    pub(crate) length: u64,
}

/// A piece of the file, or its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Data { offset: u64, length: usize },
    End([u8; 32]),
}

/// A file's name that can be nothing but a name.
pub(crate) fn is_plain(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    (1..=64).contains(&name.len()) && name.chars().all(fine) && !name.starts_with('.')
}

impl Hello {
    pub(crate) fn write(&self, to: &mut impl Write) -> Result<(), CarryError> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.ticket.as_bytes());
        bytes.push(u8::try_from(self.name.len()).map_err(|_| CarryError::Protocol("a long name"))?);
        bytes.extend(self.name.as_bytes());
        bytes.extend(self.length.to_be_bytes());
        to.write_all(&bytes).map_err(CarryError::io("sending"))
    }

    pub(crate) fn read(from: &mut impl Read) -> Result<Self, CarryError> {
        if &array::<8>(from)? != MAGIC {
            return Err(CarryError::Protocol("it does not begin as a sender does"));
        }
        let ticket = Uuid::from_bytes(array(from)?);
        let mut name = vec![0; usize::from(array::<1>(from)?[0])];
        from.read_exact(&mut name).map_err(CarryError::io("receiving"))?;
        let name =
            String::from_utf8(name).map_err(|_| CarryError::Protocol("a name that is no text"))?;
        Ok(Self { ticket, name, length: u64::from_be_bytes(array(from)?) })
    }
}

pub(crate) fn write_data(to: &mut impl Write, offset: u64, data: &[u8]) -> Result<(), CarryError> {
    let length = u32::try_from(data.len()).map_err(|_| CarryError::Protocol("a long frame"))?;
    let mut head = offset.to_be_bytes().to_vec();
    head.extend(length.to_be_bytes());
    to.write_all(&head).and_then(|()| to.write_all(data)).map_err(CarryError::io("sending"))
}

pub(crate) fn write_end(to: &mut impl Write, digest: [u8; 32]) -> Result<(), CarryError> {
    let mut bytes = END.to_be_bytes().to_vec();
    bytes.extend(digest);
    to.write_all(&bytes).map_err(CarryError::io("sending"))
}

/// The head of the next frame; its data follows.
pub(crate) fn read_frame(from: &mut impl Read) -> Result<Frame, CarryError> {
    let offset = u64::from_be_bytes(array(from)?);
    if offset == END {
        return Ok(Frame::End(array(from)?));
    }
    let length = usize::try_from(u32::from_be_bytes(array(from)?)).unwrap_or(usize::MAX);
    if length == 0 || length > FRAME {
        return Err(CarryError::Protocol("a frame of a wrong length"));
    }
    Ok(Frame::Data { offset, length })
}

/// Yes, or no and why.
pub(crate) fn write_answer(
    to: &mut impl Write,
    answer: Result<(), &str>,
) -> Result<(), CarryError> {
    let text = answer.err().unwrap_or_default().as_bytes();
    let text = &text[..text.len().min(LONGEST_TEXT)];
    let mut bytes = vec![u8::from(answer.is_err())];
    bytes.extend(u16::try_from(text.len()).unwrap_or_default().to_be_bytes());
    bytes.extend(text);
    to.write_all(&bytes).map_err(CarryError::io("answering"))
}

pub(crate) fn read_answer(from: &mut impl Read) -> Result<(), CarryError> {
    let [no] = array(from)?;
    let length = usize::from(u16::from_be_bytes(array(from)?));
    if length > LONGEST_TEXT {
        return Err(CarryError::Protocol("a long answer"));
    }
    let mut text = vec![0; length];
    from.read_exact(&mut text).map_err(CarryError::io("waiting for an answer"))?;
    match no {
        0 => Ok(()),
        _ => Err(CarryError::Refused(String::from_utf8_lossy(&text).into_owned())),
    }
}

/// Adds a piece to the hash of a file.
pub(crate) fn digest_piece(hasher: &mut blake3::Hasher, offset: u64, data: &[u8]) {
    hasher.update(&offset.to_be_bytes());
    hasher.update(&(data.len() as u64).to_be_bytes());
    hasher.update(data);
}

fn array<const N: usize>(from: &mut impl Read) -> Result<[u8; N], CarryError> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map_err(CarryError::io("receiving"))?;
    Ok(bytes)
}
