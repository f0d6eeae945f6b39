// Matrix products whose right side lies in panels of 32 columns: float32 in vector registers, bfloat16 in AMX tiles.
//
// c [M, N] = a [M, K] times b [K, N]. Threads of a team share the columns.
#pragma once

#include "loops.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int64_t WIDE = 32;  // columns of a panel of weights

struct Team {
    int64_t size, member;

    void wait() const {
        if (size > 1) {
#pragma omp barrier
        }
    }
    int64_t from(int64_t n) const { return n * member / size; }
    int64_t to(int64_t n) const { return n * (member + 1) / size; }
};

// -- float32 --------------------------------------------------------------------------------------------------------

constexpr int64_t AHEAD = 32;  // rows of a panel that are asked for before they are needed
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int64_t HIGH = 12;  // rows at once: of 32 registers 24 for sums, and 3 for what is multiplied
#else
constexpr int64_t HIGH = 6;  // of 16 registers 12, and 3
#endif
constexpr int64_t REACH = 2 * LANES;  // columns at once, of a panel

// A left side [M, K] whose rows, or columns, are `stride` apart.
struct Left {
    const float* at;
    int64_t stride;
    bool columns = false;
};

// A right side [K, N]: panels of 32 columns, `panel` apart, whose rows are `row` apart. Numbers beyond N may be anything.
struct Right {
    const float* at;
    int64_t panel, row;
};

// c [M, wide] (rows `stride_c` apart) = or += a [M, K] times columns [K, REACH] of a panel.
template <int M, bool COLUMNS>
void tile(const float* a, int64_t stride, const float* panel, int64_t row, float* c, int64_t stride_c, int64_t K,
          int64_t wide, bool add) {
    vec sums[M][2] = {};
    if (add)
        for (int i = 0; i < M; i++) std::memcpy(sums[i], c + i * stride_c, wide * sizeof(float));
    for (int64_t k = 0; k < K; k++) {
        prefetch(panel + (k + AHEAD) * row, REACH);
        const vec left = lanes(panel + k * row), right = lanes(panel + k * row + LANES);
        for (int i = 0; i < M; i++) {
            const float value = COLUMNS ? a[k * stride + i] : a[i * stride + k];
            sums[i][0] += value * left;
            sums[i][1] += value * right;
        }
    }
    for (int i = 0; i < M; i++) std::memcpy(c + i * stride_c, sums[i], wide * sizeof(float));
}

template <bool COLUMNS, int... M>
constexpr auto tiles_of(std::integer_sequence<int, M...>) {
    return std::array{tile<M + 1, COLUMNS>...};
}

// c [M, N] (rows `stride_c` apart) = or += a times b: this member's columns.
void multiply(const Team& team, Left a, Right b, float* c, int64_t stride_c, int64_t M, int64_t N, int64_t K,
              bool add = false) {
    constexpr auto by_rows = tiles_of<false>(std::make_integer_sequence<int, HIGH>{});
    constexpr auto by_columns = tiles_of<true>(std::make_integer_sequence<int, HIGH>{});
    if (!M) return;
    const int64_t panels = (N + WIDE - 1) / WIDE, parts = (M + HIGH - 1) / HIGH;  // parts of nearly equal height
    for (int64_t n = team.from(panels) * WIDE; n < std::min(team.to(panels) * WIDE, N); n += REACH)
        for (int64_t p = 0; p < parts; p++) {
            const int64_t from = M * p / parts, to = M * (p + 1) / parts;
            const auto run = (a.columns ? by_columns : by_rows)[to - from - 1];
            run(a.at + from * (a.columns ? 1 : a.stride), a.stride, b.at + n / WIDE * b.panel + n % WIDE, b.row,
                c + from * stride_c + n, stride_c, K, std::min(REACH, N - n), add);
        }
}

// b: panels [N / WIDE, K, WIDE], the last one filled up with zeros.
void product(const Team& team, const float* a, const float* b, float* c, int64_t M, int64_t N, int64_t K) {
    multiply(team, {a, K}, {b, K * WIDE, WIDE}, c, N, M, N, K);
}

constexpr int64_t DEEP = 32;  // inputs of one bfloat16 tile

// -- bfloat16: panels [N / WIDE, K / 32, 2, 16, 16, 2], two tiles of 16 columns for each 32 inputs -------------------------

#ifdef __AMX_BF16__

struct alignas(64) TileConfig {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t columns[16] = {64, 64, 64, 64, 64, 64, 64, 64};  // bytes
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

inline void begin_tiles() {
    static constexpr TileConfig config;  // static: GCC believes that only its first bytes are read
    _tile_loadconfig(&config);
}
inline void end_tiles() { _tile_release(); }

inline bool has_tiles() {  // Linux lets a process use them once it has asked
    constexpr int request = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
}

inline void put(const float* tile, bf16* c, int64_t N, int64_t rows, int64_t columns) {
    if (columns == LANES)
        for (int64_t i = 0; i < rows; i++) put(lanes(tile + i * LANES), c + i * N);
    else
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++) down(tile[i * LANES + j], c[i * N + j]);
}

// c [M, N] = a [M, K] times b: this member's columns.
void product(const Team& team, const bf16* a, const bf16* b, bf16* c, int64_t M, int64_t N, int64_t K) {
    if (!M) return;
    constexpr int64_t half = LANES * DEEP;
    alignas(64) float out[4][LANES * LANES];
    static thread_local std::vector<bf16> filled;  // the last rows, filled up to a whole tile
    const int64_t panels = (N + WIDE - 1) / WIDE, depth = K / DEEP, row = K * sizeof(bf16), whole = M / LANES * LANES;
    filled.resize(LANES * K);
    std::copy(a + whole * K, a + M * K, filled.begin());
    const auto rows = [&](int64_t m) { return m < whole ? a + m * K : filled.data(); };
    for (int64_t i = team.from(panels); i < team.to(panels); i++)
        for (int64_t m = 0; m < M; m += 2 * LANES) {
            const bool both = m + LANES < M;
            const bf16 *from = b + i * WIDE * K, *upper = rows(m), *lower = both ? rows(m + LANES) : nullptr;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int64_t k = 0; k < depth; k++, from += 2 * half) {
                if (m == 0) prefetch(from + 4 * half, 2 * half);  // the first pass brings the panel in
                _tile_loadd(6, from, 64);
                _tile_loadd(7, from + half, 64);
                _tile_loadd(4, upper + k * DEEP, row);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                if (both) {
                    _tile_loadd(5, lower + k * DEEP, row);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
            }
            _tile_stored(0, out[0], 64);
            _tile_stored(1, out[1], 64);
            _tile_stored(2, out[2], 64);
            _tile_stored(3, out[3], 64);
            for (int64_t t = 0; t < (both ? 4 : 2); t++) {
                const int64_t r = m + t / 2 * LANES, n = i * WIDE + t % 2 * LANES;
                if (n < N) put(out[t], c + r * N + n, N, std::min(LANES, M - r), std::min(LANES, N - n));
            }
        }
}

// c [M, N] += a [M, K] times b, in float32; all three are multiples of 32.
inline void add_product(const bf16* a, const bf16* b, float* c, int64_t M, int64_t N, int64_t K) {
    constexpr int64_t half = LANES * DEEP;
    const int64_t row = K * sizeof(bf16), row_c = N * sizeof(float);
    for (int64_t n = 0; n < N; n += WIDE)
        for (int64_t m = 0; m < M; m += 2 * LANES) {
            float *upper = c + m * N + n, *lower = upper + LANES * N;
            const bf16 *from = b + n * K, *high = a + m * K, *low = high + LANES * K;
            _tile_loadd(0, upper, row_c);
            _tile_loadd(1, upper + LANES, row_c);
            _tile_loadd(2, lower, row_c);
            _tile_loadd(3, lower + LANES, row_c);
            for (int64_t k = 0; k < K; k += DEEP, from += 2 * half) {
                _tile_loadd(6, from, 64);
                _tile_loadd(7, from + half, 64);
                _tile_loadd(4, high + k, row);
                _tile_loadd(5, low + k, row);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, upper, row_c);
            _tile_stored(1, upper + LANES, row_c);
            _tile_stored(2, lower, row_c);
            _tile_stored(3, lower + LANES, row_c);
        }
}

#else

inline void add_product(const bf16*, const bf16*, float*, int64_t, int64_t, int64_t) {}
inline void begin_tiles() {}
inline void end_tiles() {}
inline bool has_tiles() { return false; }
inline void product(const Team&, const bf16*, const bf16*, bf16*, int64_t, int64_t, int64_t) {}

#endif

// -- weights as right sides ----------------------------------------------------------------------------------------------

inline half_vec halves(const bf16* x) { return *reinterpret_cast<const half_vec*>(x); }
inline half_vec halves(const float* x) {
    half_vec out;
    put(lanes(x), reinterpret_cast<bf16*>(&out));
    return out;
}

// The transposed of in [rows, columns] in panels: its rows are the right side's columns, up to a multiple of 32. Columns
// are a multiple of 32, or of 16 for float32.
template <typename S>
inline bit_vec piece(const S* in, const bf16*) {  // 16 pairs
    const half_vec both[2] = {halves(in), halves(in + LANES)};
    bit_vec out;
    std::memcpy(&out, both, sizeof(out));
    return out;
}
inline bit_vec piece(const float* in, const float*) { return reinterpret_cast<bit_vec>(lanes(in)); }

template <typename S, typename T>
void panels_of_columns(const S* in, int64_t rows, int64_t columns, T* out) {
    constexpr int64_t step = sizeof(bit_vec) / sizeof(T);  // inputs of a square
    const int64_t panels = (rows + WIDE - 1) / WIDE;
#pragma omp parallel for schedule(static) if (worth(rows * columns))
    for (int64_t n = 0; n < panels * WIDE; n += LANES)
        for (int64_t k = 0; k < columns; k += step) {
            bit_vec square[LANES];
            for (int64_t i = 0; i < LANES; i++)
                square[i] = n + i < rows ? piece(in + (n + i) * columns + k, out) : bit_vec{};
            turn(square);
            T* panel = out + n / WIDE * WIDE * columns + k * WIDE;
            for (int64_t j = 0; j < LANES; j++) {
                // tiles of 16 columns one after the other; float32 rows of both side by side
                T* to = step == LANES ? panel + j * WIDE + n % WIDE : panel + n % WIDE * DEEP + j * DEEP;
                std::memcpy(to, &square[j], sizeof(bit_vec));
            }
        }
}

}  // namespace
