;; WASI preview 1 as Go's programs import it, with nothing behind it: no import of its own, so that an engine sees no
;; clock, no randomness and no file of the host's. Go takes all of linear memory for itself, so the state is in globals.
(module
  (import "env" "memory" (memory 0))
  ;; Nanoseconds. The wall clock is what the program was told; the other one moves when the program sleeps. It starts
  ;; behind whatever the snapshot has seen.
  (global $wall (mut i64) (i64.const 946684800000000000))
  (global $mono (mut i64) (i64.const 1000000000000))
  (global $draws (mut i64) (i64.const 0))

  (func (export "set_clock") (param i64) (global.set $wall (local.get 0)))
  (func (export "clock_time_get") (param $id i32) (param i64) (param $out i32) (result i32)
    (i64.store align=1 (local.get $out)
      (select (global.get $mono) (global.get $wall) (local.get $id)))
    (i32.const 0))

  ;; splitmix64 from a constant: map order and the like. Secrets come from the request's seed.
  (func $draw (result i64) (local $z i64)
    (global.set $draws (i64.add (global.get $draws) (i64.const 0x9e3779b97f4a7c15)))
    (local.set $z (global.get $draws))
    (local.set $z (i64.mul (i64.xor (local.get $z) (i64.shr_u (local.get $z) (i64.const 30))) (i64.const 0xbf58476d1ce4e5b9)))
    (local.set $z (i64.mul (i64.xor (local.get $z) (i64.shr_u (local.get $z) (i64.const 27))) (i64.const 0x94d049bb133111eb)))
    (i64.xor (local.get $z) (i64.shr_u (local.get $z) (i64.const 31))))
  (func (export "random_get") (param $p i32) (param $n i32) (result i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $n)))
        (i32.store8 (local.get $p) (i32.wrap_i64 (call $draw)))
        (local.set $p (i32.add (local.get $p) (i32.const 1)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  ;; Every subscription is ready at once: the garbage collector asks, and must not be refused. A sleep moves the clock.
  (func (export "poll_oneoff") (param $in i32) (param $out i32) (param $n i32) (param $events i32) (result i32)
    (local $i i32) (local $until i64)
    (if (i32.eqz (local.get $n)) (then (return (i32.const 28))))
    (local.set $i (local.get $n))
    (loop $next
      (i64.store align=1 (local.get $out) (i64.load align=1 (local.get $in)))
      (i64.store align=1 (i32.add (local.get $out) (i32.const 8))
        (i64.shl (i64.load8_u (i32.add (local.get $in) (i32.const 8))) (i64.const 16)))
      (i64.store align=1 (i32.add (local.get $out) (i32.const 16)) (i64.const 0))
      (i64.store align=1 (i32.add (local.get $out) (i32.const 24)) (i64.const 0))
      (if (i32.eqz (i32.load8_u (i32.add (local.get $in) (i32.const 8)))) (then
        (local.set $until (i64.load align=1 (i32.add (local.get $in) (i32.const 24))))
        (if (i32.eqz (i32.and (i32.load16_u align=1 (i32.add (local.get $in) (i32.const 40))) (i32.const 1)))
          (then (local.set $until (i64.add (global.get $mono) (local.get $until)))))
        (if (i64.gt_u (local.get $until) (global.get $mono)) (then (global.set $mono (local.get $until))))))
      (local.set $in (i32.add (local.get $in) (i32.const 48)))
      (local.set $out (i32.add (local.get $out) (i32.const 32)))
      (br_if $next (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
    (i32.store (local.get $events) (local.get $n))
    (i32.const 0))

  ;; What is written to stdout and stderr goes nowhere, and is counted as written.
  (func (export "fd_write") (param $fd i32) (param $parts i32) (param $n i32) (param $out i32) (result i32) (local $sum i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $n)))
        (local.set $sum (i32.add (local.get $sum) (i32.load (i32.add (local.get $parts) (i32.const 4)))))
        (local.set $parts (i32.add (local.get $parts) (i32.const 8)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br $next)))
    (i32.store (local.get $out) (local.get $sum))
    (i32.const 0))

  (func (export "proc_exit") (param i32) unreachable)
  (func (export "sched_yield") (result i32) (i32.const 0))
  (func $nothing (param $count i32) (param $bytes i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $bytes) (i32.const 0))
    (i32.const 0))
  (export "args_sizes_get" (func $nothing))
  (export "environ_sizes_get" (func $nothing))
  (func $empty (param i32 i32) (result i32) (i32.const 0))
  (export "args_get" (func $empty))
  (export "environ_get" (func $empty))

  ;; There are no files and no sockets: 8 is EBADF.
  (func (export "fd_close") (param i32) (result i32) (i32.const 8))
  (func (export "fd_fdstat_get") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_fdstat_set_flags") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_filestat_get") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_filestat_set_size") (param i32 i64) (result i32) (i32.const 8))
  (func (export "fd_filestat_set_times") (param i32 i64 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_pread") (param i32 i32 i32 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_prestat_dir_name") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "fd_prestat_get") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_pwrite") (param i32 i32 i32 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_read") (param i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "fd_readdir") (param i32 i32 i32 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_seek") (param i32 i64 i32 i32) (result i32) (i32.const 8))
  (func (export "fd_sync") (param i32) (result i32) (i32.const 8))
  (func (export "path_create_directory") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_filestat_get") (param i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_filestat_set_times") (param i32 i32 i32 i32 i64 i64 i32) (result i32) (i32.const 8))
  (func (export "path_link") (param i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_open") (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32) (i32.const 8))
  (func (export "path_readlink") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_remove_directory") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_rename") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_symlink") (param i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_unlink_file") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "sock_accept") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "sock_shutdown") (param i32 i32) (result i32) (i32.const 8)))
