//! What one thread needs without any protocol: receive in large calls, hash as many pieces at once as pays, write each piece once.

use super::content::{BLOCK, Content, PIECE};
use super::measure::{Figures, thread_cpu};
use super::nullpeer::{self, STRIDE};
use btmio::storage::lanes::{Lanes, MAX_LANES};
use std::io::{self, IoSliceMut, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

pub(crate) fn limit(content: &Content, dir: &Path) -> Result<Figures, String> {
    let text = |e: io::Error| e.to_string();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
    let to = listener.local_addr().map_err(text)?;
    let sender = std::thread::spawn({
        let content = content.clone();
        move || {
            let mut stream = TcpStream::connect(to)?;
            nullpeer::plain_congestion(&stream);
            let block = |k: u64| (k as u32 / 64, k as u32 % 64 * BLOCK as u32, BLOCK as u32);
            for p in 0..content.pieces {
                nullpeer::serve(&content, &mut stream, &(p * 64..p * 64 + 64).map(block).collect::<Vec<_>>())?;
            }
            io::Result::Ok(())
        }
    });
    let (mut stream, _) = listener.accept().map_err(text)?;
    let path = dir.join("limit.bin");
    let (begin, before) = (Instant::now(), thread_cpu());
    let file = std::fs::File::create(&path).map_err(text)?;
    // tmpfs takes as long for it as for the pages themselves.
    const TMPFS: u32 = 0x0102_1994;
    if rustix::fs::fstatfs(file.as_fd()).is_ok_and(|s| s.f_type as u32 != TMPFS) {
        let _ = rustix::fs::fallocate(file.as_fd(), rustix::fs::FallocateFlags::empty(), 0, content.len());
    }
    let lanes = Lanes::new(MAX_LANES);
    let mut pieces = vec![vec![0; PIECE]; lanes.width()];
    let mut headers = vec![[0; 13]; STRIDE];
    let mut p = 0;
    while p < content.pieces {
        let n = (content.pieces - p).min(pieces.len() as u64) as usize;
        for piece in &mut pieces[..n] {
            let mut parts: Vec<IoSliceMut<'_>> = headers
                .iter_mut()
                .zip(piece.chunks_mut(BLOCK))
                .flat_map(|(h, b)| [IoSliceMut::new(h), IoSliceMut::new(b)])
                .collect();
            let mut parts = &mut parts[..];
            while !parts.is_empty() {
                match stream.read_vectored(parts).map_err(text)? {
                    0 => return Err("the sender ended early".into()),
                    n => IoSliceMut::advance_slices(&mut parts, n),
                }
            }
        }
        let messages: Vec<&[u8]> = pieces[..n].iter().map(Vec::as_slice).collect();
        std::hint::black_box(lanes.digest_many(&messages));
        for (i, piece) in messages.iter().enumerate() {
            file.write_all_at(piece, (p + i as u64) * PIECE as u64).map_err(text)?;
        }
        p += n as u64;
    }
    let figures = Figures { wall: begin.elapsed().as_secs_f64(), cpu: thread_cpu() - before, ..Figures::NONE };
    sender.join().map_err(|_| "the sender panicked")?.map_err(text)?;
    std::fs::remove_file(&path).map_err(text)?;
    Ok(figures)
}
