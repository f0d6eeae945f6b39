// Learning on small models: all layers forward in one call, and all of them backward in another.
//
// Every thread takes whole families of sequences (those that share a beginning) through all layers by itself, some
// hundred tokens at a time, so that what it works on stays in its nearest caches, and waits for nobody. Gradients of
// weights are summed by each thread and then over the threads, in an order that depends on their number alone.
#pragma once

#include <type_traits>

#include "products.h"

namespace {

struct Segment {  // flat tokens [start, stop) see [before, before + shared), and themselves causally
    int64_t start, stop, before, shared;
};

struct PassModel {
    const float* weights;  // of all layers and the final norm, in the order of `Parts`
    const int64_t* windows;
    const float *cos, *sin;
    void* packed;  // weights as products of T want them: written by `forward`, read by `backward`
    int64_t count, D, I, H, K, E;
    float eps;

    int64_t heads() const { return H + 2 * K; }
    int64_t products() const { return D * (heads() * E + H * E + 3 * I); }  // weights of a layer in products
    int64_t size() const { return count * (products() + 2 * D) + D; }       // all weights
};

// A layer's weights [outputs, inputs], or their gradients, which lie one after the other.
template <typename P>
struct Parts {
    P before_attention, qkv, output, before_mlp, gate_up, down;
};

template <typename P>
Parts<P> parts_of(const PassModel& m, P all, int64_t layer) {
    P at = all + layer * (m.products() + 2 * m.D);
    const auto take = [&](int64_t size) { return std::exchange(at, at + size); };
    const P before_attention = take(m.D), qkv = take(m.heads() * m.E * m.D), output = take(m.D * m.H * m.E);
    const P before_mlp = take(m.D), gate_up = take(2 * m.I * m.D), down = take(m.I * m.D);
    return {before_attention, qkv, output, before_mlp, gate_up, down};
}

template <typename P>
P final_of(const PassModel& m, P all) {
    return all + m.size() - m.D;
}

template <typename T>
struct Pass {
    const float* x;           // embeddings [N, D]
    const int64_t* position;  // [N]
    const Segment* segments;
    const int64_t* chunks;  // [count + 1]: segments from one to the next hold whole families
    int64_t count, N, layers, backward;
    void* kept;            // what `backward` needs, of `layers` layers: all; one where there will be no way back
    T* hidden;             // [N, D]
    const T* grad_hidden;  // and the way back:
    float *grad_x, *grad_weights;
};

template <typename V>
inline auto* room_for(V& buffer, int64_t size) {
    if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(size);
    return buffer.data();
}

inline int64_t up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// -- weights -----------------------------------------------------------------------------------------------------------

// Numbers of two neighbouring rows side by side, as tiles of a right side hold them; rows that are not there are 0.
template <typename T>
inline bit_vec pair_of_rows(const T* in, int64_t stride, int64_t rows) {
    const bit_vec low = rows > 0 ? wider(halves(in)) : bit_vec{};
    return rows > 1 ? low | wider(halves(in + stride)) << 16 : low;
}

// A right side [rows, columns] in panels (products.h); rows beyond are 0, up to a multiple of 32.
template <typename T>
void panels_of_rows(const T* in, int64_t rows, int64_t columns, bf16* out) {
    const int64_t deep = (rows + DEEP - 1) / DEEP * DEEP;
    for (int64_t n = 0; n < columns; n += LANES)
        for (int64_t k = 0; k < deep; k += 2) {
            const bit_vec pairs = pair_of_rows(in + k * columns + n, columns, rows - k);
            const int64_t panel = n / WIDE * WIDE * deep, tile = k / DEEP * WIDE * DEEP + n % WIDE * DEEP;
            std::memcpy(out + panel + tile + k % DEEP * LANES, &pairs, sizeof(pairs));
        }
}

// The transposed of in [rows, columns], columns beyond its rows 0, up to a multiple of 32.
inline void transposed_pairs(const bf16* in, int64_t rows, int64_t columns, bf16* out) {
    const int64_t deep = (rows + DEEP - 1) / DEEP * DEEP;
    for (int64_t k = 0; k < deep; k += DEEP)
        for (int64_t n = 0; n < columns; n += LANES) {
            bit_vec square[LANES];
            for (int64_t i = 0; i < LANES; i++)
                square[i] = pair_of_rows(in + (k + 2 * i) * columns + n, columns, rows - k - 2 * i);
            turn(square);
            for (int64_t j = 0; j < LANES; j++) std::memcpy(out + (n + j) * deep + k, &square[j], sizeof(bit_vec));
        }
}

constexpr Team ALONE = {1, 0};

// One weight [outputs, inputs]: its products, and its gradient.
template <typename T>
struct Weight {
    const float* plain;
    T *ahead, *back;  // in panels, for x times its transposed, and for gradients times itself
    int64_t outputs, inputs;

    static int64_t room(int64_t outputs, int64_t inputs) {
        return outputs * inputs * (std::is_same_v<T, bf16> ? 2 : 1);
    }
    void pack() const {
        panels_of_columns(plain, outputs, inputs, ahead);
        if constexpr (std::is_same_v<T, bf16>) panels_of_rows(plain, outputs, inputs, back);
    }
    void forward(const T* x, T* y, int64_t n) const { product(ALONE, x, ahead, y, n, outputs, inputs); }
    void backward(const T* grad, T* grad_x, int64_t n) const {
        if constexpr (std::is_same_v<T, bf16>)
            product(ALONE, grad, back, grad_x, n, inputs, outputs);
        else
            multiply(ALONE, {grad, outputs}, {plain, WIDE, inputs}, grad_x, inputs, n, inputs, outputs);
    }
    // Whether sums of gradients lie transposed: of the two sides, the narrower is cheaper to turn.
    bool turned() const { return std::is_same_v<T, bf16> && inputs < outputs; }

    void gradient(const T* grad, const T* x, float* sum, int64_t n) const {
        if constexpr (std::is_same_v<T, bf16>) {
            static thread_local std::vector<bf16> left, right;
            const int64_t deep = (n + DEEP - 1) / DEEP * DEEP, high = std::min(outputs, inputs), wide = std::max(outputs, inputs);
            bf16 *turned_side = room_for(left, high * deep), *paired = room_for(right, wide * deep);
            transposed_pairs(turned() ? x : grad, n, high, turned_side);
            panels_of_rows(turned() ? grad : x, n, wide, paired);
            add_product(turned_side, paired, sum, high, wide, deep);
        } else {
            multiply(ALONE, {grad, outputs, true}, {x, WIDE, inputs}, sum, inputs, outputs, inputs, n, true);
        }
    }
};

template <typename T>
struct LayerProducts {
    Weight<T> qkv, output, gate_up, down;
};

template <typename T>
LayerProducts<T> products_of(const PassModel& m, int64_t layer) {
    const auto w = parts_of(m, m.weights, layer);
    T* at = static_cast<T*>(m.packed) + layer * Weight<T>::room(m.products(), 1);
    const auto weight = [&](const float* plain, int64_t outputs, int64_t inputs) {
        const Weight<T> found = {plain, at, at + outputs * inputs, outputs, inputs};
        at += Weight<T>::room(outputs, inputs);
        return found;
    };
    const auto qkv = weight(w.qkv, m.heads() * m.E, m.D), output = weight(w.output, m.D, m.H * m.E);
    const auto gate_up = weight(w.gate_up, 2 * m.I, m.D), down = weight(w.down, m.D, m.I);
    return {qkv, output, gate_up, down};
}

// -- what is kept ------------------------------------------------------------------------------------------------------

// Of a layer and some tokens: the residual stream before attention and before the MLP, with the scale of its norm; what
// attention read, after turning, and gave; and its probabilities, segment by segment [H, own, keys]. It goes out of the caches and comes back from memory, so the MLP's inside is
// computed again instead. For the same reason all is written in order: products would write piece by piece.
template <typename T>
struct KeptRows {
    float *before_attention, *before_mlp, *scale_attention, *scale_mlp;
    T *qkv, *mixed, *probs;
};

// Of N tokens and all layers, or of one layer's worth where there is no way back: all write to the same place.
template <typename T>
struct Kept {
    char* base;
    int64_t N, layers, probs;  // probabilities of a layer; 0 where there is no way back

    Kept(const PassModel& m, const Pass<T>& p) : base(static_cast<char*>(p.kept)), N(p.N), layers(p.layers), probs(0) {
        for (const Segment* s = p.segments; p.backward && s < p.segments + p.chunks[p.count]; s++) probs += seen_by(m, *s);
    }
    static int64_t seen_by(const PassModel& m, const Segment& s) {
        return m.H * (s.stop - s.start) * up_to(s.shared + s.stop - s.start, LANES);
    }
    int64_t layer_room(const PassModel& m) const {
        return up_to(N, LANES) * ((2 * m.D + 2) * sizeof(float) + (m.heads() * m.E + m.H * m.E) * sizeof(T)) +
               probs * sizeof(T);
    }
    int64_t room(const PassModel& m) const { return layers * layer_room(m) + N * (m.D + 1) * sizeof(float); }
    KeptRows<T> rows(const PassModel& m, int64_t layer, int64_t token, int64_t seen = 0) const {
        float* at = reinterpret_cast<float*>(base + std::min(layer, layers - 1) * layer_room(m));
        const auto take = [&](int64_t width) { return std::exchange(at, at + up_to(N, LANES) * width) + token * width; };
        float *before_attention = take(m.D), *before_mlp = take(m.D), *scale_attention = take(1), *scale_mlp = take(1);
        T* half = reinterpret_cast<T*>(at);
        const auto take_half = [&](int64_t width) { return std::exchange(half, half + up_to(N, LANES) * width) + token * width; };
        T *qkv = take_half(m.heads() * m.E), *mixed = take_half(m.H * m.E);
        return {before_attention, before_mlp, scale_attention, scale_mlp, qkv, mixed, probs ? half + seen : nullptr};
    }
    std::pair<float*, float*> last(const PassModel& m, int64_t token) const {  // the stream at the end, and its scale
        float* at = reinterpret_cast<float*>(base + layers * layer_room(m));
        return {at + token * m.D, at + N * m.D + token};
    }
};

// -- attention -----------------------------------------------------------------------------------------------------------

constexpr int64_t ROWS = 64;  // queries at once

// Rooms of one thread; they grow to what is needed and stay.
template <typename T>
struct Scratch {
    std::vector<T> normed, wide, narrow, delta;
    std::vector<float> of_qkv;                                                    // [n, heads * E]
    std::vector<float> query, key, value, turned, scores, out;                     // of one head
    std::vector<float> of_scores, of_key, of_value, of_out;
    std::vector<float> weights;                                                    // sums of gradients
};

// out = in [rows, width] times a number; rows are `stride` and `stride_out` apart.
template <typename T, typename U>
inline void copy(const T* in, int64_t stride, U* out, int64_t stride_out, int64_t rows, int64_t width, float times) {
    for (int64_t i = 0; i < rows; i++, in += stride, out += stride_out)
        each(width, [&](auto at) { at.put(at(in) * times, out); });
}

// Rows [C, width] (`stride` apart) as panels of columns: [C / WIDE, width, WIDE]; C up to a multiple of WIDE.
inline void turned(const float* in, int64_t stride, float* out, int64_t C, int64_t width) {
    for (int64_t c = 0; c < up_to(C, WIDE); c += LANES)
        for (int64_t e = 0; e < width; e += LANES) {
            bit_vec square[LANES];
            for (int64_t i = 0; i < LANES; i++) square[i] = reinterpret_cast<bit_vec>(lanes(in + (c + i) * stride + e));
            turn(square);
            float* to = out + (c / WIDE * width + e) * WIDE + c % WIDE;
            for (int64_t j = 0; j < std::min(LANES, width - e); j++) std::memcpy(to + j * WIDE, &square[j], sizeof(bit_vec));
        }
}

// Scores of queries that see `seen` columns, one more each, become probabilities; those not seen are 0, up to `columns`.
inline void probabilities(float* scores, int64_t stride, int64_t rows, int64_t seen, int64_t columns, int64_t window) {
    vec place;
    for (int64_t j = 0; j < LANES; j++) place[j] = j;
    for (int64_t i = 0; i < rows; i++, seen++) {
        float* s = scores + i * stride;
        const int64_t first = window > 0 ? std::max(seen - window, int64_t(0)) : 0, width = up_to(seen, LANES);
        const auto visible = [&](int64_t j) {
            const vec begin = vec{} + static_cast<float>(first - j), end = vec{} + static_cast<float>(seen - j);
            return (place >= begin) & (place < end) ? lanes(s + j) : vec{} - INFINITY;
        };
        vec top = vec{} - INFINITY, sum = {};
        for (int64_t j = 0; j < width; j += LANES) {
            const vec x = visible(j);
            top = x > top ? x : top;
        }
        const float greatest = max_across(top);
        for (int64_t j = 0; j < width; j += LANES) {
            const vec p = fast_exp(visible(j) - greatest);
            put(p, s + j);
            sum += p;
        }
        const float share = inverse(sum_across(sum));
        for (int64_t j = 0; j < width; j += LANES) put(lanes(s + j) * share, s + j);
        for (int64_t j = width; j < columns; j += LANES) put(vec{}, s + j);
    }
}

// What both ways of attention need of one key head of a segment: keys and values in rows, one of them turned.
template <typename T>
struct Head {
    const PassModel& m;
    Scratch<T>& s;
    const Segment& segment;
    int64_t own, C, width, columns;  // tokens of its own, keys in all, and strides of rows [.., E] and of scores

    Head(const PassModel& m, Scratch<T>& s, const Segment& segment)
        : m(m), s(s), segment(segment), own(segment.stop - segment.start), C(own + segment.shared),
          width(up_to(m.E, WIDE)), columns(up_to(C, WIDE)) {}

    // Of `rows` [.., heads, E] of the flat token `base` and those after it.
    void take(const T* rows, int64_t base, int64_t kv) {
        const int64_t stride = m.heads() * m.E, E = m.E;
        float *key = room_for(s.key, columns * width), *value = room_for(s.value, columns * width);
        const auto some = [&](int64_t from, int64_t count, int64_t to) {
            const T* at = rows + (from - base) * stride + (m.H + kv) * E;
            copy(at, stride, key + to * width, width, count, E, 1.0f);
            copy(at + m.K * E, stride, value + to * width, width, count, E, 1.0f);
        };
        some(segment.before, segment.shared, 0);
        some(segment.start, own, segment.shared);
    }
    const float* turn(const std::vector<float>& rows) {
        turned(rows.data(), width, room_for(s.turned, columns * width), C, m.E);
        return s.turned.data();
    }
    // Queries of some rows, scaled.
    const float* queries(const T* qkv, int64_t base, int64_t head, int64_t from, int64_t rows) {
        const T* at = qkv + (segment.start + from - base) * m.heads() * m.E + head * m.E;
        copy(at, m.heads() * m.E, room_for(s.query, ROWS * width), width, rows, m.E, scale());
        return s.query.data();
    }
    float scale() const { return 1.0f / std::sqrt(static_cast<float>(m.E)); }
    int64_t kept_columns() const { return up_to(C, LANES); }
};

// mixed [.., H, E] of the tokens of a segment; probabilities are kept where `probs` is not null.
template <typename T>
void attend_segment(const PassModel& m, Scratch<T>& s, const Segment& segment, const T* qkv, T* mixed, T* probs,
                    int64_t base, int64_t window) {
    Head<T> head(m, s, segment);
    const int64_t width = head.width, columns = head.columns;
    float *out = room_for(s.out, ROWS * width), *scores = room_for(s.scores, ROWS * columns);
    const float* key = nullptr;
    for (int64_t h = 0; h < m.H; h++) {
        if (h % (m.H / m.K) == 0) head.take(qkv, base, h / (m.H / m.K)), key = head.turn(s.key);
        for (int64_t from = 0; from < head.own; from += ROWS) {
            const int64_t rows = std::min(ROWS, head.own - from), seen = segment.shared + from + rows;
            const float* query = head.queries(qkv, base, h, from, rows);
            multiply(ALONE, {query, width}, {key, m.E * WIDE, WIDE}, scores, columns, rows, up_to(seen, WIDE), m.E);
            probabilities(scores, columns, rows, segment.shared + from + 1, up_to(seen, WIDE), window);
            multiply(ALONE, {scores, columns}, {s.value.data(), WIDE, width}, out, width, rows, m.E, seen);
            copy(out, width, mixed + ((segment.start + from - base) * m.H + h) * m.E, m.H * m.E, rows, m.E, 1.0f);
            const int64_t kept = head.kept_columns();
            if (probs) copy(scores, columns, probs + (h * head.own + from) * kept, kept, rows, up_to(seen, LANES), 1.0f);
        }
    }
}

// Gradients of queries, keys and values [.., heads, E] of the tokens of a segment, added to what other segments gave.
template <typename T>
void attend_segment_backward(const PassModel& m, Scratch<T>& s, const Segment& segment, const T* qkv, const T* of_mixed,
                             const T* kept_probs, float* of_qkv, int64_t base) {
    Head<T> head(m, s, segment);
    const int64_t stride = m.heads() * m.E, width = head.width, columns = head.columns, group = m.H / m.K;
    float *of_out = room_for(s.of_out, ROWS * width), *of_scores = room_for(s.of_scores, ROWS * columns);
    float *probs = room_for(s.scores, ROWS * columns), *out = room_for(s.out, ROWS * width);
    float *of_key = room_for(s.of_key, columns * width), *of_value = room_for(s.of_value, columns * width);
    const float* value = nullptr;
    for (int64_t h = 0; h < m.H; h++) {
        if (h % group == 0) {
            head.take(qkv, base, h / group), value = head.turn(s.value);
            std::fill_n(of_key, head.C * width, 0.0f), std::fill_n(of_value, head.C * width, 0.0f);
        }
        for (int64_t from = 0; from < head.own; from += ROWS) {
            const int64_t rows = std::min(ROWS, head.own - from), seen = segment.shared + from + rows;
            const int64_t first = segment.start + from - base, kept = head.kept_columns(), whole = up_to(seen, LANES);
            const float* query = head.queries(qkv, base, h, from, rows);
            copy(of_mixed + (first * m.H + h) * m.E, m.H * m.E, of_out, width, rows, m.E, 1.0f);
            copy(kept_probs + (h * head.own + from) * kept, kept, probs, columns, rows, whole, 1.0f);
            multiply(ALONE, {of_out, width}, {value, m.E * WIDE, WIDE}, of_scores, columns, rows, whole, m.E);
            multiply(ALONE, {probs, columns, true}, {of_out, WIDE, width}, of_value, width, seen, m.E, rows, true);
            for (int64_t i = 0; i < rows; i++) {
                float *p = probs + i * columns, *g = of_scores + i * columns;
                Sum dot;
                each(whole, [&](auto at) { at.add(at(p) * at(g), dot); });  // p is 0 where not seen
                const float mean = dot.total();
                each(whole, [&](auto at) { at.put(at(p) * (at(g) - mean), g); });
            }
            multiply(ALONE, {of_scores, columns, true}, {query, WIDE, width}, of_key, width, seen, m.E, rows, true);
            multiply(ALONE, {of_scores, columns}, {s.key.data(), WIDE, width}, out, width, rows, m.E, seen);
            copy(out, width, of_qkv + first * stride + h * m.E, stride, rows, m.E, head.scale());
        }
        if (h % group + 1 < group) continue;
        const auto give = [&](int64_t token, int64_t count, int64_t from) {
            for (int64_t i = 0; i < count; i++) {
                float *k = of_qkv + (token - base + i) * stride + (m.H + h / group) * m.E, *v = k + m.K * m.E;
                const float *more_k = of_key + (from + i) * width, *more_v = of_value + (from + i) * width;
                each(m.E, [&](auto at) {
                    at.put(at(k) + at(more_k), k);
                    at.put(at(v) + at(more_v), v);
                });
            }
        };
        give(segment.before, segment.shared, 0);
        give(segment.start, head.own, segment.shared);
    }
}

// -- one layer, one chunk --------------------------------------------------------------------------------------------------
// A thread takes all of its chunks through a layer before it goes on to the next, so that a layer's weights and the sums of
// their gradients stay in its caches.

struct Chunk {
    const Segment *first, *last;
    int64_t from, n, seen;  // tokens, and where its probabilities begin
};

template <typename T>
void forward_layer(const PassModel& m, const Pass<T>& p, const Kept<T>& kept, Scratch<T>& s, const Chunk& c, int64_t layer) {
    const auto [first, last, from, n, seen] = c;
    const int64_t wide = m.heads() * m.E, mixed = m.H * m.E;
    const auto w = parts_of(m, m.weights, layer);
    const LayerProducts<T> by = products_of<T>(m, layer);
    const KeptRows<T> k = kept.rows(m, layer, from, seen);
    T *normed = room_for(s.normed, n * m.D), *delta = p.hidden + from * m.D;  // what the layer before adds
    T *broad = room_for(s.wide, n * std::max(2 * m.I, wide)), *narrow = room_for(s.narrow, n * std::max(m.I, mixed));
    const float* x = layer ? kept.rows(m, layer - 1, from).before_mlp : p.x + from * m.D;
    norm(x, layer ? delta : nullptr, w.before_attention, k.before_attention, normed, k.scale_attention, n, m.D, m.eps);
    by.qkv.forward(normed, broad, n);
    rotate(broad, k.qkv, m.cos, m.sin, p.position + from, n, m.H + m.K, m.heads(), m.E, 1.0f);
    T* probs = k.probs;
    for (const Segment* one = first; one < last; one++) {
        attend_segment(m, s, *one, k.qkv, narrow, probs, from, m.windows[layer]);
        if (probs) probs += kept.seen_by(m, *one);
    }
    std::memcpy(k.mixed, narrow, n * mixed * sizeof(T));
    by.output.forward(narrow, delta, n);
    norm(k.before_attention, delta, w.before_mlp, k.before_mlp, normed, k.scale_mlp, n, m.D, m.eps);
    by.gate_up.forward(normed, broad, n);
    swiglu(broad, narrow, n, m.I);
    by.down.forward(narrow, delta, n);
    if (layer + 1 < m.count) return;
    const auto [stream, scale] = kept.last(m, from);
    norm(k.before_mlp, delta, final_of(m, m.weights), stream, delta, scale, n, m.D, m.eps);
}

template <typename T>
inline void normed_again(const float* stream, const float* scale, const float* weight, T* out, int64_t n, int64_t D) {
    for (int64_t i = 0; i < n; i++, stream += D, out += D)
        each(D, [&](auto at) { at.put(at(stream) * scale[i] * at(weight), out); });
}

// `sums`: this thread's gradients of all weights.
template <typename T>
void backward_layer(const PassModel& m, const Pass<T>& p, const Kept<T>& kept, Scratch<T>& s, const Chunk& c, int64_t layer,
                    float* sums) {
    const auto [first, last, from, n, seen] = c;
    const int64_t wide = m.heads() * m.E, mixed = m.H * m.E;
    const auto w = parts_of(m, m.weights, layer);
    const auto of = parts_of(m, sums, layer);
    const LayerProducts<T> by = products_of<T>(m, layer);
    const KeptRows<T> k = kept.rows(m, layer, from, seen);
    T *normed = room_for(s.normed, n * m.D), *active = room_for(s.narrow, n * std::max(m.I, mixed));
    T *delta = room_for(s.delta, n * m.D), *broad = room_for(s.wide, n * std::max(2 * m.I, wide));
    float *grad = p.grad_x + from * m.D, *of_qkv = room_for(s.of_qkv, n * wide);  // grad: of the residual stream so far
    if (layer + 1 == m.count) {
        const auto [stream, scale] = kept.last(m, from);
        norm_backward<T>(stream, scale, final_of(m, m.weights), nullptr, p.grad_hidden + from * m.D, grad, nullptr,
                         final_of(m, sums), 1, n, m.D);
    }
    copy(grad, m.D, delta, m.D, n, m.D, 1.0f);
    normed_again(k.before_mlp, k.scale_mlp, w.before_mlp, normed, n, m.D);
    by.gate_up.forward(normed, broad, n);
    swiglu(broad, active, n, m.I);
    by.down.gradient(delta, active, of.down, n);
    by.down.backward(delta, active, n);
    swiglu_backward(broad, active, broad, n, m.I);
    by.gate_up.gradient(broad, normed, of.gate_up, n);
    by.gate_up.backward(broad, normed, n);
    norm_backward(k.before_mlp, k.scale_mlp, w.before_mlp, grad, normed, grad, delta, of.before_mlp, 1, n, m.D);
    by.output.gradient(delta, k.mixed, of.output, n);
    by.output.backward(delta, active, n);
    std::fill_n(of_qkv, n * wide, 0.0f);
    const T* probs = k.probs;
    for (const Segment* one = first; one < last; probs += kept.seen_by(m, *one++))
        attend_segment_backward(m, s, *one, k.qkv, active, probs, of_qkv, from);
    rotate(of_qkv, of_qkv, m.cos, m.sin, p.position + from, n, m.H + m.K, m.heads(), m.E, -1.0f);
    copy(of_qkv, wide, broad, wide, n, wide, 1.0f);
    normed_again(k.before_attention, k.scale_attention, w.before_attention, normed, n, m.D);
    by.qkv.gradient(broad, normed, of.qkv, n);
    by.qkv.backward(broad, normed, n);
    norm_backward<T>(k.before_attention, k.scale_attention, w.before_attention, grad, normed, grad, nullptr,
                     of.before_attention, 1, n, m.D);
}

// -- all of them ---------------------------------------------------------------------------------------------------------

// Which thread takes each chunk: the one with the fewest tokens so far.
template <typename T>
std::vector<int64_t> shares(const Pass<T>& p, int64_t threads) {
    std::vector<int64_t> taken(threads), owner(p.count);
    for (int64_t c = 0; c < p.count; c++) {
        owner[c] = std::min_element(taken.begin(), taken.end()) - taken.begin();
        taken[owner[c]] += p.segments[p.chunks[c + 1] - 1].stop - p.segments[p.chunks[c]].start;
    }
    return owner;
}

// The chunks that fall to this thread.
template <typename T>
std::vector<Chunk> chunks_of(const PassModel& m, const Pass<T>& p, const Team& all) {
    const std::vector<int64_t> owner = shares(p, all.size);
    std::vector<Chunk> found;
    int64_t seen = 0;
    for (int64_t c = 0; c < p.count; c++) {
        const Segment *first = p.segments + p.chunks[c], *last = p.segments + p.chunks[c + 1];
        if (owner[c] == all.member) found.push_back({first, last, first->start, last[-1].stop - first->start, seen});
        for (const Segment* one = first; one < last; one++) seen += Kept<T>::seen_by(m, *one);
    }
    return found;
}

template <typename T, typename F>
void on_all_threads(F run) {
#pragma omp parallel
    {
        Team all = ALONE;
#ifdef _OPENMP
        all = {omp_get_num_threads(), omp_get_thread_num()};
#endif
        const bool before = alone;
        alone = true;
        if constexpr (std::is_same_v<T, bf16>) begin_tiles();
        run(all);
        if constexpr (std::is_same_v<T, bf16>) end_tiles();
        alone = before;
    }
}

template <typename T>
Scratch<T>& scratch_of_thread() {
    static thread_local Scratch<T> scratch;
    return scratch;
}

template <typename T>
void forward(const PassModel& m, const Pass<T>& p) {
    on_all_threads<T>([&](const Team& all) {
        for (int64_t i = 0; i < m.count; i++) {
            const LayerProducts<T> by = products_of<T>(m, i);
            const std::array weights = {by.qkv, by.output, by.gate_up, by.down};
            for (int64_t j = 0; j < 4; j++)
                if ((i * 4 + j) % all.size == all.member) weights[j].pack();
        }
        all.wait();
        const Kept<T> kept(m, p);
        const std::vector<Chunk> chunks = chunks_of(m, p, all);
        for (int64_t i = 0; i < m.count; i++)
            for (const Chunk& chunk : chunks) forward_layer(m, p, kept, scratch_of_thread<T>(), chunk, i);
    });
}

// A layer's gradients, each as its weight lies.
template <typename T>
void hand_over(const PassModel& m, const float* sums, float* gradients, int64_t layer) {
    const auto from = parts_of(m, sums, layer);
    const auto to = parts_of(m, gradients, layer);
    const LayerProducts<T> by = products_of<T>(m, layer);
    const auto give = [](const Weight<T>& weight, const float* sum, float* gradient) {
        if (weight.turned())
            transpose(sum, gradient, weight.inputs, weight.outputs);
        else
            std::copy_n(sum, weight.inputs * weight.outputs, gradient);
    };
    std::copy_n(from.before_attention, m.D, to.before_attention);
    std::copy_n(from.before_mlp, m.D, to.before_mlp);
    give(by.qkv, from.qkv, to.qkv), give(by.output, from.output, to.output);
    give(by.gate_up, from.gate_up, to.gate_up), give(by.down, from.down, to.down);
}

template <typename T>
void backward(const PassModel& m, const Pass<T>& p) {
    const int64_t size = m.size();
    std::vector<float*> parts;
    on_all_threads<T>([&](const Team& all) {
#pragma omp single
        parts.resize(all.size);
        Scratch<T>& s = scratch_of_thread<T>();
        float* own = parts[all.member] = room_for(s.weights, size);
        std::fill_n(own, size, 0.0f);
        const Kept<T> kept(m, p);
        const std::vector<Chunk> chunks = chunks_of(m, p, all);
        for (int64_t i = m.count - 1; i >= 0; i--)
            for (const Chunk& chunk : chunks) backward_layer(m, p, kept, s, chunk, i, own);
        all.wait();
        for (size_t other = 1; other < parts.size(); other++)
            for (int64_t i = all.from(size); i < all.to(size); i++) parts[0][i] += parts[other][i];
        all.wait();
        for (int64_t i = all.member; i < m.count; i += all.size) hand_over<T>(m, parts[0], p.grad_weights, i);
        if (all.member == 0) std::copy_n(final_of(m, parts[0]), m.D, final_of(m, p.grad_weights));
        all.wait();  // nobody begins anew with what is still being read
    });
}

}  // namespace
