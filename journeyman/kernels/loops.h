// The loops between the matrix products, each fused into one pass over memory. reference.py has the same functions in
// torch, for other devices and for machines without a compiler.
//
// T is float, or bf16 held as its 16 bits; arithmetic is float32 throughout. Plain loops, written so that compilers
// turn them into vector instructions of whatever width the machine has.
//
// Shapes: N tokens, D hidden, I intermediate, H query heads, K key/value heads, G = H / K, E head width, V vocabulary.
#pragma once

#include "lanes.h"

namespace {

// -- norm ----------------------------------------------------------------------------------------------------------

// sum = x + delta (delta may be null); out = sum * rstd * weight.
template <typename T>
void norm(const float* x, const T* delta, const float* weight, float* sum, T* out, float* rstd, int64_t N, int64_t D,
          float eps) {
#pragma omp parallel for schedule(static) if (worth(N * D))
    for (int64_t n = 0; n < N; n++) {
        const float* xr = x + n * D;
        float* __restrict sr = sum + n * D;
        T* __restrict outr = out + n * D;
        const T* dr = delta ? delta + n * D : nullptr;
        Sum square;
        each(D, [&](auto at) {
            const auto value = dr ? at(xr) + at(dr) : at(xr);
            at.put(value, sr);
            at.add(value * value, square);
        });
        const float r = 1.0f / std::sqrt(square.total() / D + eps);
        if (rstd) rstd[n] = r;
        each(D, [&](auto at) { at.put(at(sr) * r * at(weight), outr); });
    }
}

// grad_x = grad_sum + d(norm); weight gradients are summed per part (parts: [P, D], zeroed by the caller).
template <typename T>
void norm_backward(const float* sum, const float* rstd, const float* weight, const float* grad_sum, const T* grad_out,
                   float* grad_x, T* grad_delta, float* parts, int64_t P, int64_t N, int64_t D) {
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < P; p++) {
        float* __restrict part = parts + p * D;
        for (int64_t n = N * p / P; n < N * (p + 1) / P; n++) {
            const float *s = sum + n * D, *gs = grad_sum ? grad_sum + n * D : nullptr;
            const T* g = grad_out + n * D;
            float* gx = grad_x + n * D;
            const float r = rstd[n];
            T* gd = grad_delta ? grad_delta + n * D : nullptr;
            Sum dot;
            each(D, [&](auto at) {
                const auto along = at(g) * at(s);
                at.put(at(part) + along * r, part);
                at.add(along * at(weight), dot);
            });
            const float c = dot.total() * r * r * r / D;
            each(D, [&](auto at) {
                const auto own = at(g) * at(weight) * r - at(s) * c, all = gs ? at(gs) + own : own;
                at.put(all, gx);
                if (gd) at.put(all, gd);
            });
        }
    }
}

// -- SwiGLU --------------------------------------------------------------------------------------------------------

// in [N, 2I]: gate then up; out [N, I] = silu(gate) * up.
template <typename T>
void swiglu(const T* in, T* out, int64_t N, int64_t I) {
#pragma omp parallel for schedule(static) if (worth(N * I))
    for (int64_t n = 0; n < N; n++) {
        const T *gate = in + n * 2 * I, *upper = gate + I;
        T* __restrict to = out + n * I;
        each(I, [&](auto at) {
            const auto g = at(gate);
            at.put(g * inverse(1.0f + fast_exp(-g)) * at(upper), to);
        });
    }
}

template <typename T>
inline void swiglu_backward_row(const T* gate, const T* upper, const T* grad, T* to_gate, T* to_up, int64_t I) {
    each(I, [&](auto at) {
        const auto g = at(gate), u = at(upper), d = at(grad), s = inverse(1.0f + fast_exp(-g));
        at.put(d * u * s * (1.0f + g * (1.0f - s)), to_gate);
        at.put(d * g * s, to_up);
    });
}

template <typename T>
void swiglu_backward(const T* in, const T* grad, T* grad_in, int64_t N, int64_t I) {
#pragma omp parallel for schedule(static) if (worth(N * I))
    for (int64_t n = 0; n < N; n++) {
        const int64_t at = n * 2 * I;
        swiglu_backward_row(in + at, in + at + I, grad + n * I, grad_in + at, grad_in + at + I, I);
    }
}

// -- rotary positions ----------------------------------------------------------------------------------------------

// One head [E]: pairs (i, i + E/2) turn by the position's angle; sign -1 turns back.
template <typename T>
inline void rotate_head(const T* x, T* out, const float* cos, const float* sin, int64_t E, float sign) {
    const int64_t half = E / 2;
    each(half, [&](auto at) {
        const auto a = at(x), b = at(x + half), c = at(cos), s = at(sin) * sign;
        at.put(a * c - b * s, out);
        at.put(b * c + a * s, out + half);
    });
}

// qkv [N, H + 2K, E]: queries and keys turn, values are copied. cos, sin [positions, E / 2].
template <typename T>
void rotate(const T* in, T* out, const float* cos, const float* sin, const int64_t* position, int64_t N, int64_t turned,
            int64_t heads, int64_t E, float sign) {
#pragma omp parallel for schedule(static) if (worth(N * heads * E))
    for (int64_t n = 0; n < N; n++) {
        const float *c = cos + position[n] * (E / 2), *s = sin + position[n] * (E / 2);
        const T* from = in + n * heads * E;
        T* to = out + n * heads * E;
        for (int64_t h = 0; h < turned; h++) rotate_head(from + h * E, to + h * E, c, s, E, sign);
        if (from != to) std::memcpy(to + turned * E, from + turned * E, (heads - turned) * E * sizeof(T));
    }
}

// -- the cache -----------------------------------------------------------------------------------------------------
// keys [blocks, K, E, BLOCK]: the keys of a block side by side, so that scores of its positions are whole vectors.
// values [blocks, K, BLOCK, E].

// Writes k and v [N, K, E] (rows `stride` apart) of tokens at (block table row, position).
template <typename T>
void store(const T* k, const T* v, int64_t stride, T* keys, T* values, const int32_t* table, int64_t table_width,
           const int64_t* row, const int64_t* position, int64_t N, int64_t K, int64_t E) {
#pragma omp parallel for schedule(static) if (worth(N * K * E))
    for (int64_t n = 0; n < N; n++) {
        const int64_t block = table[row[n] * table_width + position[n] / BLOCK], at = position[n] % BLOCK;
        for (int64_t h = 0; h < K; h++) {
            T* to = keys + ((block * K + h) * E) * BLOCK + at;
            const T* from = k + n * stride + h * E;
            for (int64_t e = 0; e < E; e++) to[e * BLOCK] = from[e];
            std::memcpy(values + ((block * K + h) * BLOCK + at) * E, v + n * stride + h * E, E * sizeof(T));
        }
    }
}

// Attention of G query heads [G, E] over the positions [first, last] of a row's blocks, all reading one key head.
template <typename T, int G>
void attend_head(const T* q, T* out, const T* keys, const T* values, const int32_t* blocks, int64_t first, int64_t last,
                 int64_t K, int64_t E, int64_t head, float scale, float* scratch) {
    constexpr int CHAINS = G == 1 ? 8 : G == 2 ? 4 : 2;  // sums that do not wait for each other
    const int64_t from = first / BLOCK, to = last / BLOCK + 1, width = (to - from) * BLOCK;
    float* query = scratch;            // [G, E]
    float* probs = scratch + G * E;  // [G, width]
    for (int64_t i = 0; i < G * E; i++) query[i] = up(q[i]) * scale;
    for (int64_t b = from; b < to; b++) {
        const T* k = keys + (blocks[b] * K + head) * E * BLOCK;
        if (b + 1 < to) prefetch(keys + (blocks[b + 1] * K + head) * E * BLOCK, E * BLOCK);
        for (int64_t some = 0; some < BLOCK; some += LANES, k += LANES) {
            vec parts[G][CHAINS] = {};
            int64_t e = 0;
            for (; e + CHAINS <= E; e += CHAINS)
                for (int c = 0; c < CHAINS; c++) {
                    const vec key = lanes(k + (e + c) * BLOCK);
                    for (int g = 0; g < G; g++) parts[g][c] += query[g * E + e + c] * key;
                }
            for (; e < E; e++)
                for (int g = 0; g < G; g++) parts[g][0] += query[g * E + e] * lanes(k + e * BLOCK);
            for (int g = 0; g < G; g++) put(total<CHAINS>(parts[g]), probs + g * width + (b - from) * BLOCK + some);
        }
    }
    float share[G];
    for (int g = 0; g < G; g++) {
        float *p = probs + g * width, sum = 0;
        for (int64_t b = from + g; b < to; b += G) prefetch(values + (blocks[b] * K + head) * BLOCK * E, BLOCK * E);
        for (int64_t j = 0; j < first - from * BLOCK; j++) p[j] = -INFINITY;
        for (int64_t j = last - from * BLOCK + 1; j < width; j++) p[j] = -INFINITY;
        const float top = maximum(p, 0, width);
        for (int64_t j = 0; j < width; j++) {
            p[j] = fast_exp(p[j] - top);
            sum += p[j];
        }
        share[g] = 1.0f / sum;
    }
    for (int64_t e = 0; e < E; e += LANES) {
        // the last lanes of a width that is no multiple of theirs are computed twice; narrow heads go one by one
        const int64_t at = std::max(std::min(e, E - LANES), int64_t(0)), step = std::min(E, LANES);
        vec parts[G][CHAINS] = {};
        for (int64_t b = from; b < to; b++) {
            const T* v = values + (blocks[b] * K + head) * BLOCK * E + at;
            const float* p = probs + (b - from) * BLOCK;
            const int64_t low = std::max(first - b * BLOCK, int64_t(0)), high = std::min(last - b * BLOCK + 1, BLOCK);
            int64_t j = low;
            for (; step == LANES && j + CHAINS <= high; j += CHAINS)
                for (int c = 0; c < CHAINS; c++) {
                    const vec value = lanes(v + (j + c) * E);
                    for (int g = 0; g < G; g++) parts[g][c] += p[g * width + j + c] * value;
                }
            for (; j < high; j++) {
                const vec value = step == LANES ? lanes(v + j * E) : some_lanes(v + j * E, step);
                for (int g = 0; g < G; g++) parts[g][0] += p[g * width + j] * value;
            }
        }
        vec sums[G];
        for (int g = 0; g < G; g++) sums[g] = total<CHAINS>(parts[g]);
        for (int g = 0; g < G; g++)
            for (int64_t j = 0; j < step; j++) down(sums[g][j] * share[g], out[g * E + at + j]);
    }
}

// Each query [H, E] (rows `stride` apart) attends to positions (position - window, position] of its row's blocks.
template <typename T>
void attend(const T* q, int64_t stride, T* out, const T* keys, const T* values, const int32_t* table,
            int64_t table_width, const int64_t* row, const int64_t* position, int64_t N, int64_t H, int64_t K, int64_t E,
            float scale, int64_t window) {
    const int64_t G = H / K;
#pragma omp parallel if (worth(N * H * E))
    {
        std::vector<float> scratch;
#pragma omp for collapse(2) schedule(dynamic, 4)
        for (int64_t n = 0; n < N; n++)
            for (int64_t h = 0; h < K; h++) {
                const int64_t last = position[n], first = window > 0 ? std::max(last - window + 1, int64_t(0)) : 0;
                scratch.resize(4 * (E + (last / BLOCK - first / BLOCK + 1) * BLOCK));
                const int32_t* blocks = table + row[n] * table_width;
                const T* query = q + n * stride + h * G * E;
                T* to = out + (n * H + h * G) * E;
                for (int64_t g = 0; g < G;) {  // query heads of one key head read it together, up to four at once
                    const int64_t step = std::min(G - g, int64_t(4));
                    auto run = step == 1   ? attend_head<T, 1>
                               : step == 2 ? attend_head<T, 2>
                               : step == 3 ? attend_head<T, 3>
                                           : attend_head<T, 4>;
                    run(query + g * E, to + g * E, keys, values, blocks, first, last, K, E, h, scale, scratch.data());
                    g += step;
                }
            }
    }
}

// -- attention when learning: between the two products ---------------------------------------------------------------

// out [B, heads, T, E] = in [N, heads, E] (rows `stride` apart) at index [B, T]; zeros where the index is negative.
template <typename T>
void gather(const T* in, int64_t stride, T* out, const int64_t* index, int64_t B, int64_t heads, int64_t length, int64_t E) {
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t b = 0; b < B; b++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t t = 0; t < length; t++) {
                T* to = out + ((b * heads + h) * length + t) * E;
                const int64_t n = index[b * length + t];
                if (n < 0)
                    std::memset(to, 0, E * sizeof(T));
                else
                    std::memcpy(to, in + n * stride + h * E, E * sizeof(T));
            }
}

// The way back where no index is shared: out [N, heads, E] (rows `stride` apart) at index = in [B, heads, T, E].
template <typename T>
void ungather(const T* in, T* out, int64_t stride, const int64_t* index, int64_t B, int64_t heads, int64_t length,
              int64_t E) {
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < length; t++) {
            const int64_t n = index[b * length + t];
            if (n < 0) continue;
            for (int64_t h = 0; h < heads; h++)
                std::memcpy(out + n * stride + h * E, in + ((b * heads + h) * length + t) * E, E * sizeof(T));
        }
}

// out [N, heads, E] += in [B, heads, T, E] at index [B, T], in an order that does not depend on the threads.
template <typename T>
void scatter_add(const T* in, float* out, const int64_t* index, int64_t B, int64_t heads, int64_t length, int64_t E) {
    const int64_t slice = 16;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t h = 0; h < heads; h++)
        for (int64_t from = 0; from < E; from += slice)
            for (int64_t i = 0; i < B * length; i++) {
                if (index[i] < 0) continue;
                const int64_t b = i / length, t = i % length, to = std::min(from + slice, E);
                const T* source = in + ((b * heads + h) * length + t) * E;
                float* target = out + (index[i] * heads + h) * E;
                for (int64_t e = from; e < to; e++) target[e] += up(source[e]);
            }
}

// scores [B, rows, C] of queries `start` + r % span become probabilities in place; the first `before[b / per]` columns
// are seen by all, the others causally. A window > 0 bounds how far back is seen. C is a multiple of LANES.
template <typename T>
void softmax(T* scores, const int64_t* before, int64_t B, int64_t per, int64_t rows, int64_t span, int64_t start,
             int64_t C, float scale, int64_t window) {
#pragma omp parallel
    {
        std::vector<float> scaled(C);
#pragma omp for collapse(2) schedule(dynamic, 64)
        for (int64_t b = 0; b < B; b++)
            for (int64_t r = 0; r < rows; r++) {
                T* s = scores + (b * rows + r) * C;
                float* x = scaled.data();
                const int64_t seen = std::min(before[b / per] + start + r % span + 1, C);
                const int64_t first = window > 0 ? std::max(seen - window, int64_t(0)) : 0;
                const int64_t width = (seen + LANES - 1) / LANES * LANES;  // whole vectors, the rest masked
                for (int64_t j = 0; j < width; j++) x[j] = j >= first && j < seen ? up(s[j]) * scale : -INFINITY;
                const float top = maximum(x, 0, width);
                float sum = 0;
                for (int64_t j = 0; j < width; j++) {
                    x[j] = fast_exp(x[j] - top);
                    sum += x[j];
                }
                const float share = 1.0f / sum;
                each(width, [&](auto at) { at.put(at(x) * share, s); });
                for (int64_t j = width; j < C; j++) down(0.0f, s[j]);
            }
    }
}

// grad [B, rows, C] of the probabilities becomes that of the scores: p * (grad - sum(p * grad)) * scale.
template <typename T>
void softmax_backward(const T* probs, T* grad, int64_t rows, int64_t C, float scale) {
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t r = 0; r < rows; r++) {
        const T* p = probs + r * C;
        T* g = grad + r * C;
        Sum dot;
        each(C, [&](auto at) { at.add(at(p) * at(g), dot); });
        const float mean = dot.total();
        each(C, [&](auto at) { at.put(at(p) * (at(g) - mean) * scale, g); });
    }
}

// Stage S of turning a square of LANES x LANES numbers of 32 bits: rows i and i + S exchange the lanes that lie across.
template <int S, int... lane>
inline void exchange(bit_vec& a, bit_vec& b, std::integer_sequence<int, lane...>) {
    const bit_vec upper = __builtin_shufflevector(a, b, (lane & S ? LANES + lane - S : lane)...);
    b = __builtin_shufflevector(a, b, (lane & S ? LANES + lane : lane + S)...);
    a = upper;
}

template <int S>
inline void stage(bit_vec* rows) {
    for (int i = 0; i < LANES; i++)
        if (!(i & S)) exchange<S>(rows[i], rows[i + S], std::make_integer_sequence<int, LANES>{});
}

template <int S = 1>
inline void turn(bit_vec* rows) {
    if constexpr (S < LANES) stage<S>(rows), turn<2 * S>(rows);
}

// A square of in [.., D] at its upper left corner: for bfloat16 results two rows of numbers side by side in 32 bits.
inline constexpr int64_t tall(const float*) { return LANES; }
inline constexpr int64_t tall(const bf16*) { return 2 * LANES; }

template <typename T>
inline void load_square(const T* in, int64_t D, bit_vec* rows, float*) {
    for (int i = 0; i < LANES; i++) rows[i] = reinterpret_cast<bit_vec>(lanes(in + i * D));
}
inline void load_square(const bf16* in, int64_t D, bit_vec* rows, bf16*) {
    for (int i = 0; i < LANES; i++) {
        const auto half = [&](int64_t row) {
            return wider(*reinterpret_cast<const half_vec*>(in + row * D));
        };
        rows[i] = half(2 * i) | half(2 * i + 1) << 16;
    }
}

// out [D, N] = in [N, D]. Products that sum over tokens want it so.
template <typename T, typename U>
void transpose_as(const T* in, U* out, int64_t N, int64_t D) {
    const int64_t side = tall(out), whole = N / side * side, wide = D / LANES * LANES;
#pragma omp parallel for collapse(2) schedule(static) if (worth(N * D))
    for (int64_t n = 0; n < whole; n += side)
        for (int64_t d = 0; d < wide; d += LANES) {
            bit_vec rows[LANES];
            load_square(in + n * D + d, D, rows, out);
            turn(rows);
            for (int j = 0; j < LANES; j++) std::memcpy(out + (d + j) * N + n, &rows[j], sizeof(bit_vec));
        }
    for (int64_t n = 0; n < N; n++)
        for (int64_t d = n < whole ? wide : 0; d < D; d++) convert(in[n * D + d], out[d * N + n]);
}

template <typename T>
void transpose(const T* in, T* out, int64_t N, int64_t D) {
    transpose_as(in, out, N, D);
}

template <typename T>
void transpose_float(const T* in, float* out, int64_t N, int64_t D) {
    transpose_as(in, out, N, D);
}

// -- the vocabulary ------------------------------------------------------------------------------------------------

template <typename T>
inline float sum_exp(const T* x, int64_t from, int64_t to, float top, float scale) {
    float sum = 0;
    for (int64_t v = from; v < to; v++) sum += fast_exp((up(x[v]) - top) * scale);
    return sum;
}

// Log-probability of token[a], entropy, and log(sum(exp)) of logits [A, V] at a temperature.
template <typename T>
void log_probability(const T* logits, const int64_t* token, const float* temperature, float* logprob, float* entropy,
                     float* lse, int64_t A, int64_t V) {
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t a = 0; a < A; a++) {
        const T* x = logits + a * V;
        const float scale = 1.0f / temperature[a], top = maximum(x, 0, V);
        float sum = 0, mean = 0;
        for (int64_t v = 0; v < V; v++) {
            const float z = (up(x[v]) - top) * scale, p = fast_exp(z);
            sum += p;
            mean += p * z;
        }
        const float log_sum = std::log(sum);
        lse[a] = top * scale + log_sum;
        logprob[a] = (up(x[token[a]]) - top) * scale - log_sum;
        entropy[a] = log_sum - mean / sum;
    }
}

// logits [A, V] become their gradients in place, from those of the log-probability and of the entropy.
template <typename T>
void log_probability_backward(T* logits, const int64_t* token, const float* temperature, const float* entropy,
                              const float* lse, const float* grad, const float* grad_entropy, int64_t A, int64_t V) {
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t a = 0; a < A; a++) {
        T* x = logits + a * V;
        const float scale = 1.0f / temperature[a], g = grad[a] * scale;
        const float ge = grad_entropy ? grad_entropy[a] * scale : 0.0f, shift = entropy[a];
        const int64_t chosen = token[a];
        const float of_chosen = fast_exp(up(x[chosen]) * scale - lse[a]);
        const float at_chosen = g * (1.0f - of_chosen) - ge * of_chosen * (up(x[chosen]) * scale - lse[a] + shift);
        for (int64_t v = 0; v < V; v++) {
            const float z = up(x[v]) * scale - lse[a], p = fast_exp(z);
            down(-g * p - ge * p * (z + shift), x[v]);
        }
        down(at_chosen, x[chosen]);
    }
}

// Draws a token from logits [R, V] by inverting its distribution at `uniform`; temperature 0 takes the greatest.
template <typename T>
void sample(const T* logits, const float* temperature, const double* uniform, int64_t* token, float* logprob, int64_t R,
            int64_t V) {
    const int64_t span = 256;
#pragma omp parallel if (worth(R * V))
    {
        std::vector<float> parts((V + span - 1) / span);
#pragma omp for schedule(dynamic, 1)
        for (int64_t r = 0; r < R; r++) {
            const T* x = logits + r * V;
            const bool greedy = temperature[r] == 0;
            const float scale = greedy ? 1.0f : 1.0f / temperature[r], top = maximum(x, 0, V);
            double total = 0;
            for (size_t i = 0; i < parts.size(); i++) {
                parts[i] = sum_exp(x, i * span, std::min<int64_t>((i + 1) * span, V), top, scale);
                total += parts[i];
            }
            int64_t chosen = 0;
            if (greedy) {
                while (up(x[chosen]) != top && chosen < V - 1) chosen++;
            } else {
                double left = uniform[r] * total;
                size_t i = 0;
                while (i + 1 < parts.size() && left >= parts[i]) left -= parts[i++];
                const int64_t end = std::min<int64_t>((i + 1) * span, V);
                for (chosen = i * span; chosen < end - 1; chosen++) {
                    left -= fast_exp((up(x[chosen]) - top) * scale);
                    if (left < 0) break;
                }
            }
            token[r] = chosen;
            logprob[r] = (up(x[chosen]) - top) * scale - static_cast<float>(std::log(total));
        }
    }
}

}  // namespace
