//! The `btmio` command: everything is in [`btmio::cli`].

fn main() -> std::process::ExitCode {
    btmio::cli::run(std::env::args_os())
}
