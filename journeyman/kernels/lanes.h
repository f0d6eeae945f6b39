// Numbers and vectors of them: bfloat16, one register of float32, exp, and when a loop is shared between threads.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

using std::int32_t;
using std::int64_t;

namespace {

// float32 in this processor's vector register: GCC keeps vectors of more in memory, which made all eight times slower
#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
#elif defined(__AVX__)
constexpr int64_t LANES = 8;
#else
constexpr int64_t LANES = 4;
#endif
constexpr int64_t BLOCK = 16;  // tokens in a block of the cache: whole registers of them

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

// One vector register of float32, wherever it begins.
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t bit_vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t half_vec __attribute__((vector_size(2 * LANES), aligned(2)));

inline vec lanes(const float* x) { return *reinterpret_cast<const vec*>(x); }
inline bit_vec wider(half_vec x) {
#ifdef __AVX512F__  // GCC would take the two halves one by one
    return reinterpret_cast<bit_vec>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(x)));
#else
    return __builtin_convertvector(x, bit_vec);
#endif
}
inline vec lanes(const bf16* x) { return reinterpret_cast<vec>(wider(*reinterpret_cast<const half_vec*>(x)) << 16); }

inline void put(vec x, float* to) { *reinterpret_cast<vec*>(to) = x; }
inline void put(vec x, bf16* to) {
#ifdef __AVX512BF16__
    const __m256bh rounded = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(x));
    std::memcpy(to, &rounded, sizeof(rounded));
#else
    for (int64_t j = 0; j < LANES; j++) down(x[j], to[j]);
#endif
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

// Ask for numbers that will be needed soon.
template <typename T>
inline void prefetch(const T* x, int64_t count) {
    const char* bytes = reinterpret_cast<const char*>(x);
    for (int64_t i = 0; i < count * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(bytes + i);
}

inline void convert(float x, float& to) { to = x; }
inline void convert(bf16 x, bf16& to) { to = x; }
inline void convert(bf16 x, float& to) { to = up(x); }
inline void convert(float x, bf16& to) { down(x, to); }

thread_local bool alone = false;  // this thread has work of its own, so its loops are not shared with others

// Whether a loop over so many numbers is worth sharing between threads.
inline bool worth(int64_t numbers) { return !alone && numbers > 4096; }

// exp by 2^n times a polynomial on [-ln2/2, ln2/2] (Cephes' expf, relative error below 2e-7); 0 below -87, and e^87
// above 87. Of a float or of a register of them.
template <typename V>
inline V exp_of_rest(V r) {
    V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return p * r * r + r + 1.0f;
}

inline float fast_exp(float x) {
    const float bounded = std::min(std::max(x, -87.0f), 87.0f), n = std::nearbyint(bounded * 1.44269504f);
    const float p = exp_of_rest((bounded - n * 0.693359375f) + n * 2.12194440e-4f);
    const float power = bits_to_float(static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23);
    return x < -87.0f ? 0.0f : p * power;
}

inline vec fast_exp(vec x) {
    typedef int32_t int_vec __attribute__((vector_size(4 * LANES), aligned(4)));
    const vec low = vec{} - 87.0f, high = vec{} + 87.0f, above = x > low ? x : low;
    const vec bounded = above < high ? above : high, scaled = bounded * 1.44269504f + 0.5f;
    int_vec whole = __builtin_convertvector(scaled, int_vec);
    whole += __builtin_convertvector(whole, vec) > scaled;  // rounded towards 0: one too many below it
    const vec n = __builtin_convertvector(whole, vec);
    const vec p = exp_of_rest((bounded - n * 0.693359375f) + n * 2.12194440e-4f);
    const vec out = p * reinterpret_cast<vec>((whole + 127) << 23);
    return x < low ? vec{} : out;
}

// All lanes of a register by one operation, which need not know its order.
template <typename F>
inline float across(vec x, F both) {
    float all[LANES];
    std::memcpy(all, &x, sizeof(x));
#pragma GCC unroll 4
    for (int64_t half = LANES / 2; half; half /= 2)
        for (int64_t j = 0; j < half; j++) all[j] = both(all[j], all[j + half]);
    return all[0];
}
#ifdef __AVX512F__
inline float sum_across(vec x) { return _mm512_reduce_add_ps(reinterpret_cast<__m512>(x)); }
inline float max_across(vec x) { return _mm512_reduce_max_ps(reinterpret_cast<__m512>(x)); }
#else
inline float sum_across(vec x) { return across(x, [](float a, float b) { return a + b; }); }
inline float max_across(vec x) { return across(x, [](float a, float b) { return a > b ? a : b; }); }
#endif

// 1 / x.
inline float inverse(float x) { return 1.0f / x; }
inline vec inverse(vec x) {
#ifdef __AVX512F__
    const vec guess = reinterpret_cast<vec>(_mm512_rcp14_ps(reinterpret_cast<__m512>(x)));
    return guess * (2.0f - x * guess);  // a third of a division's time; right to 2^-23 or so
#else
    return 1.0f / x;
#endif
}

// A sum that is taken in lanes.
struct Sum {
    vec wide = {};
    float one = 0;

    float total() const { return one + sum_across(wide); }
};

// What a loop over numbers does with those of one step: a register of them, or a single one at the end.
struct Wide {
    int64_t i;
    template <typename T>
    vec operator()(const T* x) const { return lanes(x + i); }
    template <typename T>
    void put(vec x, T* to) const { ::put(x, to + i); }
    void add(vec x, Sum& sum) const { sum.wide += x; }
};
struct Single {
    int64_t i;
    template <typename T>
    float operator()(const T* x) const { return up(x[i]); }
    template <typename T>
    void put(float x, T* to) const { down(x, to[i]); }
    void add(float x, Sum& sum) const { sum.one += x; }
};

// Calls `step` for n numbers, in registers as far as they fill them.
template <typename F>
inline __attribute__((always_inline)) void each(int64_t n, F step) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) step(Wide{i});
    for (; i < n; i++) step(Single{i});
}

// The greatest of x[from..to); a NaN never is.
template <typename T>
inline float maximum(const T* x, int64_t from, int64_t to) {
    vec top = vec{} - INFINITY;
    int64_t i = from;
    for (; i + LANES <= to; i += LANES) {
        const vec value = lanes(x + i);
        top = value > top ? value : top;
    }
    float greatest = max_across(top);
    for (; i < to; i++) greatest = std::max(greatest, up(x[i]));
    return greatest;
}

}  // namespace
