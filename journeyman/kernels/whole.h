// A whole step of a model in one call: a team of threads reads tokens through all layers, then samples.
//
// Small models: every thread is a team of its own, with some of the sequences, and waits for nobody; all read all
// weights, so these should fit the nearest caches. Large ones: all threads are one team, share the columns of each
// product, so that weights are read from memory once, and wait for each other between products.
#pragma once

#include <type_traits>

#include "loops.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#ifdef __AMX_BF16__
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int64_t WIDE = 2 * LANES;  // columns of a panel of weights

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

// -- float32 products: panels [N / WIDE, K, WIDE], the last one filled up with zeros ------------------------------------

constexpr int64_t AHEAD = 32;  // rows of a panel that are asked for before they are needed
constexpr int64_t HIGH = 12;  // rows at once: 24 registers of sums, and 3 for what is multiplied

// c [M, wide] (rows N apart) = a [M, K] times a panel [K, WIDE].
template <int M>
void tile(const float* a, const float* panel, float* c, int64_t N, int64_t K, int64_t wide) {
    vec sums[M][2] = {};
    for (int64_t k = 0; k < K; k++) {
        prefetch(panel + (k + AHEAD) * WIDE, WIDE);
        const vec left = lanes(panel + k * WIDE), right = lanes(panel + k * WIDE + LANES);
        for (int i = 0; i < M; i++) {
            sums[i][0] += a[i * K + k] * left;
            sums[i][1] += a[i * K + k] * right;
        }
    }
    for (int i = 0; i < M; i++) std::memcpy(c + i * N, sums[i], wide * sizeof(float));
}

// c [M, N] = a [M, K] times b: this member's columns.
void product(const Team& team, const float* a, const float* b, float* c, int64_t M, int64_t N, int64_t K) {
    constexpr auto tiles = std::array{tile<1>, tile<2>, tile<3>, tile<4>,  tile<5>,  tile<6>,
                                      tile<7>, tile<8>, tile<9>, tile<10>, tile<11>, tile<12>};
    if (!M) return;
    const int64_t panels = (N + WIDE - 1) / WIDE, parts = (M + HIGH - 1) / HIGH;  // parts of nearly equal height
    for (int64_t i = team.from(panels); i < team.to(panels); i++)
        for (int64_t p = 0; p < parts; p++) {
            const int64_t from = M * p / parts, to = M * (p + 1) / parts, n = i * WIDE;
            tiles[to - from - 1](a + from * K, b + n * K, c + from * N + n, N, K, std::min(WIDE, N - n));
        }
}

// -- bfloat16 products by AMX: panels [N / WIDE, K / 32, 2, 16, 16, 2], two tiles of 16 columns for each 32 inputs ------

constexpr int64_t DEEP = 32;  // inputs of one tile

#ifdef __AMX_BF16__

struct alignas(64) TileConfig {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t columns[16] = {64, 64, 64, 64, 64, 64, 64, 64};  // bytes
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

inline void begin_tiles() {
    const TileConfig config;
    _tile_loadconfig(&config);
}
inline void end_tiles() { _tile_release(); }

inline bool has_tiles() {  // Linux lets a process use them once it has asked
    constexpr int request = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
}

inline void put(const float* tile, bf16* c, int64_t N, int64_t rows, int64_t columns) {
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

#else

inline void begin_tiles() {}
inline void end_tiles() {}
inline bool has_tiles() { return false; }
inline void product(const Team&, const bf16*, const bf16*, bf16*, int64_t, int64_t, int64_t) {}

#endif

// -- the step --------------------------------------------------------------------------------------------------------

template <typename T>
struct LayerWeights {
    const float* before_attention;
    const T *qkv, *output;
    const float* before_mlp;
    const T *gate_up, *down;
    int64_t window;
};

template <typename T>
struct Model {
    const T* embedding;
    const float *cos, *sin, *final;
    const T* head;
    const LayerWeights<T>* layers;
    int64_t count, D, I, H, K, E, V, apart;  // apart: every thread may be a team of its own
    float eps;
};

template <typename T>
struct Step {
    const int64_t *tokens, *row, *position;  // flat [N]: what is read first
    const int64_t* starts;                   // [rows + 1]: where each row's tokens begin, in order
    const int64_t* room;                     // [rows]: tokens to sample after them, at most `most`
    const float* temperature;                // [rows]
    const double* uniform;                   // [rows, most]
    const int64_t* stop;                     // [rows, stops]: tokens that end a reply
    T *keys, *values;                        // the cache, [layers, blocks, ...]
    const int32_t* table;
    int64_t rows, most, stops, table_width, layer_size;
    int64_t* token;  // [rows, most]
    float* logprob;  // [rows, most]
    int64_t* made;   // [rows]: how many were sampled
};

// What a team works on: tokens to read in one pass, the rows that sample after it, and where their last tokens lie.
template <typename T>
struct Desk {
    std::vector<int64_t> tokens, row, position, live, last;
    std::vector<float> x;
    std::vector<T> normed, wide, narrow, delta, logits;

    void make_room(const Model<T>& m) {
        const int64_t N = tokens.size(), heads = m.H + 2 * m.K;
        const auto grow = [](auto& buffer, int64_t size) {
            if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(size);
        };
        grow(x, N * m.D), grow(normed, N * m.D), grow(delta, N * m.D);
        grow(wide, N * std::max(2 * m.I, heads * m.E)), grow(narrow, N * std::max(m.I, m.H * m.E));
        grow(logits, live.size() * m.V);
    }
};

// Attention of the tokens [from, to), which have turned and stored theirs before.
template <typename T>
void attend_some(const Model<T>& m, const Step<T>& s, Desk<T>& d, int64_t layer, int64_t from, int64_t to) {
    const int64_t stride = (m.H + 2 * m.K) * m.E, at = layer * s.layer_size;
    attend(d.wide.data() + from * stride, stride, d.narrow.data() + from * m.H * m.E, s.keys + at, s.values + at, s.table,
           s.table_width, d.row.data() + from, d.position.data() + from, to - from, m.H, m.K, m.E,
           1.0f / std::sqrt(static_cast<float>(m.E)), m.layers[layer].window);
}

// The residual stream of the desk's tokens, in x, and what the last layer adds to it, in delta.
template <typename T>
void read(const Team& team, const Model<T>& m, const Step<T>& s, Desk<T>& d) {
    const int64_t N = d.tokens.size(), heads = m.H + 2 * m.K, from = team.from(N), to = team.to(N), some = to - from;
    float* x = d.x.data();
    T *normed = d.normed.data(), *wide = d.wide.data(), *narrow = d.narrow.data(), *delta = d.delta.data();
    const auto add_norm = [&](const T* added, const float* weight) {
        const int64_t at = from * m.D;
        norm(x + at, added ? added + at : nullptr, weight, x + at, normed + at, nullptr, some, m.D, m.eps);
        team.wait();
    };
    for (int64_t n = from; n < to; n++)
        for (int64_t i = 0; i < m.D; i++) x[n * m.D + i] = up(m.embedding[d.tokens[n] * m.D + i]);
    for (int64_t i = 0; i < m.count; i++) {
        const LayerWeights<T>& w = m.layers[i];
        const int64_t at = i * s.layer_size;
        add_norm(i ? delta : nullptr, w.before_attention);
        product(team, normed, w.qkv, wide, N, heads * m.E, m.D);
        team.wait();
        T *q = wide + from * heads * m.E, *k = q + m.H * m.E;
        rotate(q, q, m.cos, m.sin, d.position.data() + from, some, m.H + m.K, heads, m.E, 1.0f);
        store(k, k + m.K * m.E, heads * m.E, s.keys + at, s.values + at, s.table, s.table_width, d.row.data() + from,
              d.position.data() + from, some, m.K, m.E);
        team.wait();  // a token may see others that a neighbour has stored
        attend_some(m, s, d, i, from, to);
        team.wait();
        product(team, narrow, w.output, delta, N, m.D, m.H * m.E);
        team.wait();
        add_norm(delta, w.before_mlp);
        product(team, normed, w.gate_up, wide, N, 2 * m.I, m.D);
        team.wait();
        swiglu(wide + from * 2 * m.I, narrow + from * m.I, some, m.I);
        team.wait();
        product(team, narrow, w.down, delta, N, m.D, m.I);
        team.wait();
    }
}

// A token for each live row: this member's share of them.
template <typename T>
void sample_some(const Team& team, const Model<T>& m, const Step<T>& s, Desk<T>& d, int64_t step) {
    const int64_t R = d.live.size();
    for (int64_t i = team.from(R); i < team.to(R); i++) {
        const int64_t at = d.last[i] * m.D;
        float* x = d.x.data() + at;
        norm(x, d.delta.data() + at, m.final, x, d.normed.data() + i * m.D, nullptr, 1, m.D, m.eps);
    }
    team.wait();
    product(team, d.normed.data(), m.head, d.logits.data(), R, m.V, m.D);
    team.wait();
    for (int64_t i = team.from(R); i < team.to(R); i++) {
        const int64_t r = d.live[i], at = r * s.most + step;
        sample(d.logits.data() + i * m.V, s.temperature + r, s.uniform + at, s.token + at, s.logprob + at, 1, m.V);
    }
    team.wait();
}

// Clear the desk for the tokens that were just sampled; rows that have all they may have, or an end, leave.
template <typename T>
void go_on(const Model<T>& m, const Step<T>& s, Desk<T>& d, int64_t step) {
    std::vector<int64_t> tokens, row, position, live;
    for (size_t i = 0; i < d.live.size(); i++) {
        const int64_t r = d.live[i], token = s.token[r * s.most + step];
        const int64_t *stop = s.stop + r * s.stops, *end = stop + s.stops;
        if (++s.made[r] == s.room[r] || std::find(stop, end, token) != end) continue;
        live.push_back(r), tokens.push_back(token);
        row.push_back(d.row[d.last[i]]), position.push_back(d.position[d.last[i]] + 1);
    }
    d.live.swap(live), d.tokens.swap(tokens), d.row.swap(row), d.position.swap(position);
    d.last.resize(d.live.size());
    for (size_t i = 0; i < d.last.size(); i++) d.last[i] = i;
    d.make_room(m);
}

// Lay the tokens of the rows [from, to) on a desk.
template <typename T>
void lay_out(const Model<T>& m, const Step<T>& s, Desk<T>& d, int64_t from, int64_t to) {
    const int64_t begin = s.starts[from], end = s.starts[to];
    d.tokens.assign(s.tokens + begin, s.tokens + end);
    d.row.assign(s.row + begin, s.row + end);
    d.position.assign(s.position + begin, s.position + end);
    d.live.clear(), d.last.clear();
    for (int64_t r = from; r < to; r++) {
        s.made[r] = 0;
        if (s.room[r]) d.live.push_back(r), d.last.push_back(s.starts[r + 1] - 1 - begin);
    }
    d.make_room(m);
}

// Read what is on the desk, then sample until all rows have what they may have.
template <typename T>
void work(const Team& team, const Model<T>& m, const Step<T>& s, Desk<T>& d) {
    for (int64_t step = 0; !d.tokens.empty(); step++) {
        read(team, m, s, d);
        sample_some(team, m, s, d, step);
        if (team.member == 0) go_on(m, s, d, step);
        team.wait();
    }
}

template <typename T>
void advance(const Model<T>& m, const Step<T>& s) {
    static Desk<T> shared;
    const bool apart = m.apart && s.rows > 1;  // one row alone is shared, by columns
    if (!apart) lay_out(m, s, shared, 0, s.rows);
#pragma omp parallel
    {
        Team all = {1, 0};
#ifdef _OPENMP
        all = {omp_get_num_threads(), omp_get_thread_num()};
#endif
        const bool before = alone;
        alone = true;
        if constexpr (std::is_same_v<T, bf16>) begin_tiles();
        if (apart) {  // rows are cut where the tokens before them are this thread's share of all
            const auto cut = [&](int64_t share) {
                return std::lower_bound(s.starts, s.starts + s.rows, s.starts[s.rows] * share / all.size) - s.starts;
            };
            static thread_local Desk<T> own;
            const int64_t from = cut(all.member), to = all.member + 1 == all.size ? s.rows : cut(all.member + 1);
            if (from < to) {
                lay_out(m, s, own, from, to);
                work(Team{1, 0}, m, s, own);
            }
        } else {
            work(all, m, s, shared);
        }
        if constexpr (std::is_same_v<T, bf16>) end_tiles();
        alone = before;
    }
}

// A product by itself, shared by all threads.
void product_alone(const bf16* a, const bf16* b, bf16* c, int64_t M, int64_t N, int64_t K) {
#pragma omp parallel
    {
        Team all = {1, 0};
#ifdef _OPENMP
        all = {omp_get_num_threads(), omp_get_thread_num()};
#endif
        begin_tiles();
        product(all, a, b, c, M, N, K);
        end_tiles();
    }
}

}  // namespace
