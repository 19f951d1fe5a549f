//! (being written)
#![allow(unused_variables, missing_docs, unused_imports)]
use super::{DiskError, Done, FileStat, IoVecs, OpenSpec, PlaceList, Storage, StorageConfig};
use crate::id::{Block, FileIndex, PieceIndex, TorrentKey};
use crate::torrent::layout::Layout;
use std::sync::Arc;
#[derive(Default, Debug)]
pub struct Memory {}
impl Memory {
    pub fn new() -> Self {
        Self {}
    }
}
impl Storage for Memory {
    fn open(&mut self, t: TorrentKey, layout: Arc<Layout>, spec: OpenSpec) -> Result<(), DiskError> {
        Ok(())
    }
    fn close(&mut self, t: TorrentKey) -> Result<(), DiskError> {
        Ok(())
    }
    fn remove_files(&mut self, t: TorrentKey) -> Result<(), DiskError> {
        Ok(())
    }
    fn prepare(&mut self, t: TorrentKey, wanted: &dyn Fn(FileIndex) -> bool) -> Result<(), DiskError> {
        Ok(())
    }
    fn allocate(&mut self, t: TorrentKey, file: FileIndex) -> Result<(), DiskError> {
        Ok(())
    }
    fn place(&mut self, t: TorrentKey, block: Block, at: u32, max: u32, out: &mut PlaceList) -> Result<u32, DiskError> {
        Ok(0)
    }
    fn regions<'a>(&'a mut self, plan: &'a mut PlaceList) -> IoVecs<'a> {
        let mut io = IoVecs::new();
        super::plan::resolve(plan, &mut io, |_, _| false);
        io
    }
    fn fault(&mut self, plan: &PlaceList) -> DiskError {
        DiskError::new(super::DiskErrorKind::Other, "", "")
    }
    fn landed(&mut self, t: TorrentKey, piece: PieceIndex, begin: u32, len: u32) {}
    fn read_back(&mut self, t: TorrentKey, block: Block, at: u32, buf: &mut [u8]) -> Result<(), DiskError> {
        Ok(())
    }
    fn write(&mut self, t: TorrentKey, piece: PieceIndex, begin: u32, data: &[u8]) -> Result<(), DiskError> {
        Ok(())
    }
    fn forget(&mut self, t: TorrentKey, piece: PieceIndex) {}
    fn hash(&mut self, t: TorrentKey, piece: PieceIndex, expected: [u8; 20], want_blocks: bool) {}
    fn recheck(&mut self, t: TorrentKey, piece: PieceIndex, expected: [u8; 20]) {}
    fn poll_done(&mut self) -> Option<Done> {
        None
    }
    fn work(&mut self, budget: usize) -> bool {
        false
    }
    fn lend(&mut self, t: TorrentKey, block: Block, at: u32, max: u32, out: &mut PlaceList) -> Result<u32, DiskError> {
        Ok(0)
    }
    fn prefetch(&mut self, t: TorrentKey, block: Block) {}
    fn flush(&mut self, t: TorrentKey) -> Result<(), DiskError> {
        Ok(())
    }
    fn sync(&mut self, t: TorrentKey) -> Result<(), DiskError> {
        Ok(())
    }
    fn file_stat(&mut self, t: TorrentKey, file: FileIndex) -> Option<FileStat> {
        None
    }
    fn dirty(&self) -> usize {
        0
    }
    fn memory(&self) -> usize {
        0
    }
}
