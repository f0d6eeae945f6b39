// The loops between the matrix products, each fused into one pass over memory. Compiled on first use (compiled.py);
// reference.py has the same functions in torch, for other devices and for machines without a compiler.
//
// T is float, or bf16 held as its 16 bits; arithmetic is float32 throughout. Plain loops, written so that compilers
// turn them into vector instructions of whatever width the machine has.
//
// Shapes: N tokens, D hidden, I intermediate, H query heads, K key/value heads, G = H / K, E head width, V vocabulary.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

using std::int32_t;
using std::int64_t;

namespace {

constexpr int64_t LANES = 16;  // float32 in the widest vector register there is (AVX-512)
constexpr int64_t BLOCK = LANES;  // tokens in a block of the cache

struct bf16 {
    uint16_t bits;
};

inline float bits_to_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

inline uint32_t float_to_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

inline float up(float x) { return x; }
inline float up(bf16 x) { return bits_to_float(static_cast<uint32_t>(x.bits) << 16); }

inline void down(float x, float& to) { to = x; }
inline void down(float x, bf16& to) {  // to nearest, ties to even; a NaN stays one
    const uint32_t bits = float_to_bits(x);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    to.bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// One vector register of float32, wherever it begins. (GCC and Clang split it where registers are narrower.)
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t bit_vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t half_vec __attribute__((vector_size(2 * LANES), aligned(2)));

inline vec lanes(const float* x) { return *reinterpret_cast<const vec*>(x); }
inline vec lanes(const bf16* x) {
    return reinterpret_cast<vec>(__builtin_convertvector(*reinterpret_cast<const half_vec*>(x), bit_vec) << 16);
}

template <int N>
inline vec total(const vec* parts) {
    vec sum = parts[0];
    for (int i = 1; i < N; i++) sum += parts[i];
    return sum;
}

template <typename T>
inline vec some_lanes(const T* x, int64_t count) {
    vec out = {};
    for (int64_t j = 0; j < count; j++) out[j] = up(x[j]);
    return out;
}

inline void convert(float x, float& to) { to = x; }
inline void convert(bf16 x, bf16& to) { to = x; }
inline void convert(bf16 x, float& to) { to = up(x); }

thread_local bool alone = false;  // this thread has work of its own, so its loops are not shared with others

// Whether a loop over so many numbers is worth sharing between threads.
inline bool worth(int64_t numbers) { return !alone && numbers > 4096; }

// exp by 2^n times a polynomial on [-ln2/2, ln2/2] (Cephes' expf, relative error below 2e-7); 0 far below.
inline float fast_exp(float x) {
    const float bounded = std::max(x, -87.0f);
    const float n = std::nearbyint(bounded * 1.44269504f);
    const float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const float power = bits_to_float(static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23);
    return x < -87.0f ? 0.0f : p * power;
}

// The greatest of x[from..to), in lanes: a plain maximum is not vectorized, for a NaN's sake.
template <typename T>
inline float maximum(const T* x, int64_t from, int64_t to) {
    float top[LANES];
    for (int64_t j = 0; j < LANES; j++) top[j] = -INFINITY;
    int64_t i = from;
    for (; i + LANES <= to; i += LANES)
        for (int64_t j = 0; j < LANES; j++) {
            const float value = up(x[i + j]);
            top[j] = value > top[j] ? value : top[j];
        }
    for (; i < to; i++) top[0] = std::max(top[0], up(x[i]));
    return *std::max_element(top, top + LANES);
}

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
        float square = 0;
        if (delta) {
            const T* dr = delta + n * D;
            for (int64_t d = 0; d < D; d++) {
                const float value = xr[d] + up(dr[d]);
                sr[d] = value;
                square += value * value;
            }
        } else {
            for (int64_t d = 0; d < D; d++) {
                sr[d] = xr[d];
                square += xr[d] * xr[d];
            }
        }
        const float r = 1.0f / std::sqrt(square / D + eps);
        if (rstd) rstd[n] = r;
        for (int64_t d = 0; d < D; d++) down(sr[d] * r * weight[d], outr[d]);
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
            float* __restrict gx = grad_x + n * D;
            const float r = rstd[n];
            float dot = 0;
            for (int64_t d = 0; d < D; d++) {
                const float gd = up(g[d]);
                part[d] += gd * s[d] * r;
                dot += gd * weight[d] * s[d];
            }
            const float c = dot * r * r * r / D;
            if (gs)
                for (int64_t d = 0; d < D; d++) gx[d] = gs[d] + up(g[d]) * weight[d] * r - s[d] * c;
            else
                for (int64_t d = 0; d < D; d++) gx[d] = up(g[d]) * weight[d] * r - s[d] * c;
            if (grad_delta)
                for (int64_t d = 0; d < D; d++) down(gx[d], grad_delta[n * D + d]);
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
        for (int64_t i = 0; i < I; i++) {
            const float g = up(gate[i]);
            down(g / (1.0f + fast_exp(-g)) * up(upper[i]), to[i]);
        }
    }
}

template <typename T>
inline void swiglu_backward_row(const T* gate, const T* upper, const T* grad, T* __restrict to_gate, T* __restrict to_up,
                                int64_t I) {
    for (int64_t i = 0; i < I; i++) {
        const float g = up(gate[i]), u = up(upper[i]), d = up(grad[i]);
        const float s = 1.0f / (1.0f + fast_exp(-g));
        down(d * u * s * (1.0f + g * (1.0f - s)), to_gate[i]);
        down(d * g * s, to_up[i]);
    }
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
    for (int64_t e = 0; e < half; e++) {
        const float a = up(x[e]), b = up(x[e + half]), s = sin[e] * sign;
        down(a * cos[e] - b * s, out[e]);
        down(b * cos[e] + a * s, out[e + half]);
    }
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
// keys [blocks, K, E, BLOCK]: the 16 keys of a block side by side, so that scores of 16 positions are one vector.
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
        vec parts[G][CHAINS] = {};
        int64_t e = 0;
        for (; e + CHAINS <= E; e += CHAINS)
            for (int c = 0; c < CHAINS; c++) {
                const vec key = lanes(k + (e + c) * BLOCK);
                for (int g = 0; g < G; g++) parts[g][c] += query[g * E + e + c] * key;
            }
        for (; e < E; e++)
            for (int g = 0; g < G; g++) parts[g][0] += query[g * E + e] * lanes(k + e * BLOCK);
        for (int g = 0; g < G; g++)
            *reinterpret_cast<vec*>(probs + g * width + (b - from) * BLOCK) = total<CHAINS>(parts[g]);
    }
    float share[G];
    for (int g = 0; g < G; g++) {
        float *p = probs + g * width, sum = 0;
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
                for (int64_t j = 0; j < width; j++) down(x[j] * share, s[j]);
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
        float dot = 0;
        for (int64_t j = 0; j < C; j++) dot += up(p[j]) * up(g[j]);
        for (int64_t j = 0; j < C; j++) down(up(p[j]) * (up(g[j]) - dot) * scale, g[j]);
    }
}

// out [D, N] = in [N, D], in squares that fit the nearest cache. Products that sum over tokens want it so.
template <typename T, typename U>
void transpose_as(const T* in, U* out, int64_t N, int64_t D) {
    constexpr int64_t side = 32;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t n = 0; n < N; n += side)
        for (int64_t d = 0; d < D; d += side) {
            const int64_t rows = std::min(side, N - n), columns = std::min(side, D - d);
            T square[side][side];
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < columns; j++) square[j][i] = in[(n + i) * D + d + j];
            for (int64_t j = 0; j < columns; j++)
                for (int64_t i = 0; i < rows; i++) convert(square[j][i], out[(d + j) * N + n + i]);
        }
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

// -- a whole step of a small model -----------------------------------------------------------------------------------
// Sequences do not depend on each other, so each thread takes some of them through all layers without waiting for the
// others. This pays while the weights fit the nearest caches, for every thread reads them all. float32 only.

constexpr int64_t WIDE = 2 * LANES;  // columns of a panel
constexpr int64_t HIGH = 12;         // rows at once: 24 registers of sums, and 3 for what is multiplied

// c [M, wide] (rows N apart) = a [M, K] times a panel [K, WIDE].
template <int M>
void tile(const float* a, const float* panel, float* c, int64_t N, int64_t K, int64_t wide) {
    vec sums[M][2] = {};
    for (int64_t k = 0; k < K; k++) {
        const vec left = lanes(panel + k * WIDE), right = lanes(panel + k * WIDE + LANES);
        for (int i = 0; i < M; i++) {
            sums[i][0] += a[i * K + k] * left;
            sums[i][1] += a[i * K + k] * right;
        }
    }
    for (int i = 0; i < M; i++) std::memcpy(c + i * N, sums[i], wide * sizeof(float));
}

// c [M, N] = a [M, K] times b, which lies in panels [N / WIDE, K, WIDE], the last one filled up with zeros.
void product(const float* a, const float* b, float* c, int64_t M, int64_t N, int64_t K) {
    constexpr auto tiles = std::array{tile<1>, tile<2>, tile<3>, tile<4>,  tile<5>,  tile<6>,
                                      tile<7>, tile<8>, tile<9>, tile<10>, tile<11>, tile<12>};
    if (!M) return;
    const int64_t parts = (M + HIGH - 1) / HIGH;  // of nearly equal height
    for (int64_t n = 0; n < N; n += WIDE)
        for (int64_t p = 0; p < parts; p++) {
            const int64_t from = M * p / parts, to = M * (p + 1) / parts;
            tiles[to - from - 1](a + from * K, b + n * K, c + from * N + n, N, K, std::min(WIDE, N - n));
        }
}

struct LayerWeights {  // matrices lie in panels, see product
    const float *before_attention, *qkv, *output, *before_mlp, *gate_up, *down;
    int64_t window;
};

struct Model {
    const float *embedding, *cos, *sin, *final, *head;
    const LayerWeights* layers;
    int64_t count, D, I, H, K, E, V;
    float eps;
};

struct Step {
    const int64_t *tokens, *row, *position;  // flat [N]: what is read first
    const int64_t* starts;                   // [rows + 1]: where each row's tokens begin, in order
    const int64_t* room;                     // [rows]: tokens to sample after them, at most `most`
    const float* temperature;                // [rows]
    const double* uniform;                   // [rows, most]
    const int64_t* stop;                     // [rows, stops]: tokens that end a reply
    float *keys, *values;                    // the cache, [layers, blocks, ...]
    const int32_t* table;
    int64_t rows, most, stops, table_width, layer_size;
    int64_t* token;  // [rows, most]
    float* logprob;  // [rows, most]
    int64_t* made;   // [rows]: how many were sampled
};

struct Flat {  // tokens to read in one pass
    const int64_t *tokens, *row, *position;
    int64_t N;
};

struct Scratch {
    std::vector<float> x, normed, wide, narrow, delta, logits;
};

// The residual stream of the tokens, in x, and what the last layer adds to it, in delta.
void read(const Model& m, const Step& s, const Flat& f, Scratch& z) {
    const int64_t N = f.N, heads = m.H + 2 * m.K;
    z.x.resize(N * m.D), z.normed.resize(N * m.D), z.delta.resize(N * m.D);
    z.wide.resize(N * std::max(2 * m.I, heads * m.E)), z.narrow.resize(N * std::max(m.I, m.H * m.E));
    float *x = z.x.data(), *normed = z.normed.data(), *wide = z.wide.data(), *narrow = z.narrow.data();
    for (int64_t n = 0; n < N; n++) std::memcpy(x + n * m.D, m.embedding + f.tokens[n] * m.D, m.D * sizeof(float));
    const float *added = nullptr, scale = 1.0f / std::sqrt(static_cast<float>(m.E));
    for (int64_t i = 0; i < m.count; i++) {
        const LayerWeights& w = m.layers[i];
        float *keys = s.keys + i * s.layer_size, *values = s.values + i * s.layer_size;
        float *k = wide + m.H * m.E, *v = k + m.K * m.E;
        norm(x, added, w.before_attention, x, normed, nullptr, N, m.D, m.eps);
        product(normed, w.qkv, wide, N, heads * m.E, m.D);
        rotate(wide, wide, m.cos, m.sin, f.position, N, m.H + m.K, heads, m.E, 1.0f);
        store(k, v, heads * m.E, keys, values, s.table, s.table_width, f.row, f.position, N, m.K, m.E);
        attend(wide, heads * m.E, narrow, keys, values, s.table, s.table_width, f.row, f.position, N, m.H, m.K, m.E,
               scale, w.window);
        product(narrow, w.output, z.delta.data(), N, m.D, m.H * m.E);
        norm(x, z.delta.data(), w.before_mlp, x, normed, nullptr, N, m.D, m.eps);
        product(normed, w.gate_up, wide, N, 2 * m.I, m.D);
        swiglu(wide, narrow, N, m.I);
        product(narrow, w.down, z.delta.data(), N, m.D, m.I);
        added = z.delta.data();
    }
}

// Some rows read what they have to, and then sample up to `most` tokens each.
void advance(const Model& m, const Step& s, int64_t from, int64_t to) {
    static thread_local Scratch z;
    const int64_t n0 = s.starts[from];
    std::vector<int64_t> live, last;  // rows that sample, and where their last tokens lie in this pass
    for (int64_t r = from; r < to; r++) {
        s.made[r] = 0;
        if (s.room[r]) live.push_back(r), last.push_back(s.starts[r + 1] - 1 - n0);
    }
    Flat flat = {s.tokens + n0, s.row + n0, s.position + n0, s.starts[to] - n0};
    std::vector<int64_t> tokens, row, position;
    for (int64_t step = 0; flat.N; step++) {
        read(m, s, flat, z);
        const int64_t R = live.size();
        z.logits.resize(R * m.V);
        for (int64_t i = 0; i < R; i++) {
            const int64_t at = last[i] * m.D;
            norm(z.x.data() + at, z.delta.data() + at, m.final, z.x.data() + at, z.normed.data() + i * m.D, nullptr, 1,
                 m.D, m.eps);
        }
        product(z.normed.data(), m.head, z.logits.data(), R, m.V, m.D);
        std::vector<int64_t> next_tokens, next_row, next_position, next_live;
        for (int64_t i = 0; i < R; i++) {
            const int64_t r = live[i], at = r * s.most + step;
            sample(z.logits.data() + i * m.V, s.temperature + r, s.uniform + at, s.token + at, s.logprob + at, 1, m.V);
            const int64_t *stop = s.stop + r * s.stops, *end = stop + s.stops;
            if (++s.made[r] == s.room[r] || std::find(stop, end, s.token[at]) != end) continue;
            next_live.push_back(r);
            next_tokens.push_back(s.token[at]);
            next_row.push_back(flat.row[last[i]]);
            next_position.push_back(flat.position[last[i]] + 1);
        }
        live.swap(next_live), tokens.swap(next_tokens), row.swap(next_row), position.swap(next_position);
        last.resize(live.size());
        for (size_t i = 0; i < live.size(); i++) last[i] = i;
        flat = {tokens.data(), row.data(), position.data(), static_cast<int64_t>(live.size())};
    }
}

void advance_all(const Model* m, const Step* s) {
#pragma omp parallel if (s->rows > 1)
    {
        int64_t threads = 1, thread = 0;
#ifdef _OPENMP
        threads = omp_get_num_threads(), thread = omp_get_thread_num();
#endif
        // rows are cut where the tokens before them are this thread's share of all
        const auto cut = [&](int64_t share) {
            return std::lower_bound(s->starts, s->starts + s->rows, s->starts[s->rows] * share / threads) - s->starts;
        };
        const int64_t from = cut(thread), to = thread + 1 == threads ? s->rows : cut(thread + 1);
        const bool before = alone;
        alone = true;
        if (from < to) advance(*m, *s, from, to);
        alone = before;
    }
}

struct Entry {
    const char* name;
    void* function;
};

#define LOOP(name) {#name, reinterpret_cast<void*>(&name<T>)}

template <typename T>
const Entry entries[] = {
    LOOP(norm),    LOOP(norm_backward),    LOOP(swiglu),          LOOP(swiglu_backward),
    LOOP(rotate),  LOOP(store),            LOOP(attend),          LOOP(gather),
    LOOP(ungather), LOOP(scatter_add),     LOOP(softmax),         LOOP(softmax_backward), LOOP(transpose), LOOP(transpose_float),
    LOOP(sample),  LOOP(log_probability),  LOOP(log_probability_backward), {nullptr, nullptr},
};

}  // namespace

extern "C" void advance_rows(const Model* model, const Step* step) { advance_all(model, step); }
extern "C" const Entry* float32_loops() { return entries<float>; }
extern "C" const Entry* bfloat16_loops() { return entries<bf16>; }
