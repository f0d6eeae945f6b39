// What Python calls (compiled.py): the loops by name, for each type, and the whole step.

#include "loops.h"
#include "passes.h"
#include "whole.h"

namespace {

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

extern "C" {
const Entry* float32_loops() { return entries<float>; }
const Entry* bfloat16_loops() { return entries<bf16>; }
bool bfloat16_tiles() { return has_tiles(); }
void bfloat16_product(const bf16* a, const bf16* b, bf16* c, int64_t M, int64_t N, int64_t K) {
    product_alone(a, b, c, M, N, K);
}
void float32_panels(const float* in, int64_t rows, int64_t columns, float* out) { panels_of_columns(in, rows, columns, out); }
void bfloat16_panels(const bf16* in, int64_t rows, int64_t columns, bf16* out) { panels_of_columns(in, rows, columns, out); }
void rounded_panels(const float* in, int64_t rows, int64_t columns, bf16* out) { panels_of_columns(in, rows, columns, out); }
int64_t float32_room(const PassModel* model, const Pass<float>* pass) { return Kept<float>(*model, *pass).room(*model); }
int64_t bfloat16_room(const PassModel* model, const Pass<bf16>* pass) { return Kept<bf16>(*model, *pass).room(*model); }
void float32_forward(const PassModel* model, const Pass<float>* pass) { forward(*model, *pass); }
void bfloat16_forward(const PassModel* model, const Pass<bf16>* pass) { forward(*model, *pass); }
void float32_backward(const PassModel* model, const Pass<float>* pass) { backward(*model, *pass); }
void bfloat16_backward(const PassModel* model, const Pass<bf16>* pass) { backward(*model, *pass); }
void float32_step(const Model<float>* model, const Step<float>* step) { advance(*model, *step); }
void bfloat16_step(const Model<bf16>* model, const Step<bf16>* step) { advance(*model, *step); }
}
