;; The product of a matrix and a vector, which is nearly all of the work of a token.
;; kernel.wasm is this file assembled: wasmtime.wat2wasm, of the Python package wasmtime.
(module
  (import "page" "memory" (memory 1))

  ;; out[r] = sum over c of w[r][c] * x[c], in float32.
  ;; out, w, x: addresses; rows: a number; cols: bytes of a row, a multiple of 16; stride: bytes from row to row.
  ;; Rows are read one after another, as memory is fastest in order: four at a time take three times as long where the
  ;; matrices are larger than the caches. Four sums in a row do not wait for one another.
  (func (export "matvec") (param $out i32) (param $w i32) (param $x i32)
                          (param $rows i32) (param $cols i32) (param $stride i32)
    (local $c i32) (local $fours i32) (local $a i32) (local $b i32)
    (local $s0 v128) (local $s1 v128) (local $s2 v128) (local $s3 v128)
    (local.set $fours (i32.and (local.get $cols) (i32.const -64))) ;; bytes that are read 64 at a time
    (block $end
      (loop $row
        (br_if $end (i32.eqz (local.get $rows)))
        (local.set $s0 (v128.const i32x4 0 0 0 0))
        (local.set $s1 (v128.const i32x4 0 0 0 0))
        (local.set $s2 (v128.const i32x4 0 0 0 0))
        (local.set $s3 (v128.const i32x4 0 0 0 0))
        (local.set $c (i32.const 0))
        (block $rest
          (loop $columns
            (br_if $rest (i32.ge_u (local.get $c) (local.get $fours)))
            (local.set $a (i32.add (local.get $w) (local.get $c)))
            (local.set $b (i32.add (local.get $x) (local.get $c)))
            (local.set $s0 (f32x4.add (local.get $s0) (f32x4.mul
              (v128.load (local.get $a)) (v128.load (local.get $b)))))
            (local.set $s1 (f32x4.add (local.get $s1) (f32x4.mul
              (v128.load offset=16 (local.get $a)) (v128.load offset=16 (local.get $b)))))
            (local.set $s2 (f32x4.add (local.get $s2) (f32x4.mul
              (v128.load offset=32 (local.get $a)) (v128.load offset=32 (local.get $b)))))
            (local.set $s3 (f32x4.add (local.get $s3) (f32x4.mul
              (v128.load offset=48 (local.get $a)) (v128.load offset=48 (local.get $b)))))
            (local.set $c (i32.add (local.get $c) (i32.const 64)))
            (br $columns)))
        (block $sum
          (loop $columns
            (br_if $sum (i32.ge_u (local.get $c) (local.get $cols)))
            (local.set $s0 (f32x4.add (local.get $s0) (f32x4.mul
              (v128.load (i32.add (local.get $w) (local.get $c))) (v128.load (i32.add (local.get $x) (local.get $c))))))
            (local.set $c (i32.add (local.get $c) (i32.const 16)))
            (br $columns)))
        (local.set $s0 (f32x4.add (f32x4.add (local.get $s0) (local.get $s1)) (f32x4.add (local.get $s2) (local.get $s3))))
        (f32.store (local.get $out) (f32.add
          (f32.add (f32x4.extract_lane 0 (local.get $s0)) (f32x4.extract_lane 1 (local.get $s0)))
          (f32.add (f32x4.extract_lane 2 (local.get $s0)) (f32x4.extract_lane 3 (local.get $s0)))))
        (local.set $out (i32.add (local.get $out) (i32.const 4)))
        (local.set $w (i32.add (local.get $w) (local.get $stride)))
        (local.set $rows (i32.sub (local.get $rows) (i32.const 1)))
        (br $row)))))
