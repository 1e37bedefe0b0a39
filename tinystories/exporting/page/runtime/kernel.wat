;; The products of a network's matrices with a vector, four numbers at a time: nearly all of the work of a token.
;; kernel.wasm is this file assembled (`wasmtime.wat2wasm`); tests/exporting/test_page.py compares them.
(module
  (import "page" "memory" (memory 1))

  ;; out[r] = sum over c of w[r][c] * x[c].
  ;; out, w, x: addresses; rows: a number; cols: bytes of a row, a multiple of 16; stride: bytes from row to row.
  (func (export "matvec") (param $out i32) (param $w i32) (param $x i32)
                          (param $rows i32) (param $cols i32) (param $stride i32)
    (local $c i32) (local $w1 i32) (local $w2 i32) (local $w3 i32)
    (local $v v128) (local $s0 v128) (local $s1 v128) (local $s2 v128) (local $s3 v128)

    ;; four rows together: their sums do not wait for one another, and x is read once
    (block $few
      (loop $rows_of_four
        (br_if $few (i32.lt_u (local.get $rows) (i32.const 4)))
        (local.set $w1 (i32.add (local.get $w) (local.get $stride)))
        (local.set $w2 (i32.add (local.get $w1) (local.get $stride)))
        (local.set $w3 (i32.add (local.get $w2) (local.get $stride)))
        (local.set $s0 (v128.const i32x4 0 0 0 0))
        (local.set $s1 (v128.const i32x4 0 0 0 0))
        (local.set $s2 (v128.const i32x4 0 0 0 0))
        (local.set $s3 (v128.const i32x4 0 0 0 0))
        (local.set $c (i32.const 0))
        (loop $columns
          (local.set $v (v128.load (i32.add (local.get $x) (local.get $c))))
          (local.set $s0 (f32x4.add (local.get $s0)
            (f32x4.mul (local.get $v) (v128.load (i32.add (local.get $w) (local.get $c))))))
          (local.set $s1 (f32x4.add (local.get $s1)
            (f32x4.mul (local.get $v) (v128.load (i32.add (local.get $w1) (local.get $c))))))
          (local.set $s2 (f32x4.add (local.get $s2)
            (f32x4.mul (local.get $v) (v128.load (i32.add (local.get $w2) (local.get $c))))))
          (local.set $s3 (f32x4.add (local.get $s3)
            (f32x4.mul (local.get $v) (v128.load (i32.add (local.get $w3) (local.get $c))))))
          (local.set $c (i32.add (local.get $c) (i32.const 16)))
          (br_if $columns (i32.lt_u (local.get $c) (local.get $cols))))
        ;; the four sums across, as one vector: first the halves of two rows, then those of all four
        (local.set $s0 (f32x4.add
          (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $s0) (local.get $s1))
          (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $s0) (local.get $s1))))
        (local.set $s2 (f32x4.add
          (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $s2) (local.get $s3))
          (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $s2) (local.get $s3))))
        (v128.store (local.get $out) (f32x4.add
          (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $s0) (local.get $s2))
          (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31 (local.get $s0) (local.get $s2))))
        (local.set $out (i32.add (local.get $out) (i32.const 16)))
        (local.set $w (i32.add (local.get $w3) (local.get $stride)))
        (local.set $rows (i32.sub (local.get $rows) (i32.const 4)))
        (br $rows_of_four)))

    ;; the last rows, one by one
    (block $none
      (loop $row
        (br_if $none (i32.eqz (local.get $rows)))
        (local.set $s0 (v128.const i32x4 0 0 0 0))
        (local.set $c (i32.const 0))
        (loop $columns
          (local.set $s0 (f32x4.add (local.get $s0) (f32x4.mul
            (v128.load (i32.add (local.get $x) (local.get $c)))
            (v128.load (i32.add (local.get $w) (local.get $c))))))
          (local.set $c (i32.add (local.get $c) (i32.const 16)))
          (br_if $columns (i32.lt_u (local.get $c) (local.get $cols))))
        (f32.store (local.get $out) (f32.add
          (f32.add (f32x4.extract_lane 0 (local.get $s0)) (f32x4.extract_lane 2 (local.get $s0)))
          (f32.add (f32x4.extract_lane 1 (local.get $s0)) (f32x4.extract_lane 3 (local.get $s0)))))
        (local.set $out (i32.add (local.get $out) (i32.const 4)))
        (local.set $w (i32.add (local.get $w) (local.get $stride)))
        (local.set $rows (i32.sub (local.get $rows) (i32.const 1)))
        (br $row)))))
