//! Reads the packed values of shared data, one number after the other.

/// The value does not have the expected layout, so something else must have written it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt;

/// Takes the next bytes.
pub(crate) fn chunk<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Corrupt> {
    let (chunk, after) = rest.split_first_chunk::<N>().ok_or(Corrupt)?;
    *rest = after;
    Ok(*chunk)
}
