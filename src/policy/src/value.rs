//! Reading the packed values of shared data, number after number.

/// A value can't be read as what should be there. Someone else wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt;

/// Takes the next bytes.
pub(crate) fn chunk<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Corrupt> {
    let (chunk, after) = rest.split_first_chunk::<N>().ok_or(Corrupt)?;
    *rest = after;
    Ok(*chunk)
}
