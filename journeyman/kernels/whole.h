// A whole step of a model in one call: a team of threads reads tokens through all layers, then samples.
//
// Small models: every thread is a team of its own, with some of the sequences, and waits for nobody; all read all
// weights, so these should fit the nearest caches. Large ones: all threads are one team, share the columns of each
// product, so that weights are read from memory once, and wait for each other between products.
#pragma once

#include <type_traits>

#include "loops.h"
#include "products.h"

namespace {

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
    const int32_t* const* texts;             // [rows]: tables from state and token to state, or null
    int64_t* state;                          // [rows]: below 0 after a text that ends a reply
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
        if (s.texts[r]) s.state[r] = s.texts[r][s.state[r] * m.V + token];
        if (++s.made[r] == s.room[r] || std::find(stop, end, token) != end || s.state[r] < 0) continue;
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
    static thread_local Desk<T> callers;  // engines of one process work at the same time
    Desk<T>& shared = callers;            // this one's, for the whole team
    const bool apart = m.apart && s.rows >= (std::is_same_v<T, bf16> ? LANES : 2);  // few rows are shared, by columns
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
