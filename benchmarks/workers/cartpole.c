/* CartPole as one would write it in C: an array of structs, one env after the other, autoreset, float32 (-O3 -march=native). */
#include <math.h>
#include <stdint.h>

typedef struct {
    float x, x_dot, theta, theta_dot, episode_return;
    int32_t elapsed;
    uint64_t random;
} Env;

static float uniform(Env *e) { /* xorshift64, in [-0.05, 0.05) */
    e->random ^= e->random << 13;
    e->random ^= e->random >> 7;
    e->random ^= e->random << 17;
    return (float)(e->random >> 40) * (0.1f / 16777216.0f) - 0.05f;
}

static void begin(Env *e) {
    e->x = uniform(e);
    e->x_dot = uniform(e);
    e->theta = uniform(e);
    e->theta_dot = uniform(e);
    e->episode_return = 0.0f;
    e->elapsed = 0;
}

static void observe(const Env *e, float *obs) {
    obs[0] = e->x;
    obs[1] = e->x_dot;
    obs[2] = e->theta;
    obs[3] = e->theta_dot;
}

int64_t size_of_env(void) { return sizeof(Env); }

void reset_all(Env *envs, int64_t n, float *obs) {
    for (int64_t i = 0; i < n; i++) {
        envs[i].random = 0x9E3779B97F4A7C15ull * (uint64_t)(i + 1);
        begin(&envs[i]);
        observe(&envs[i], obs + 4 * i);
    }
}

void step_all(Env *envs, int64_t n, const int64_t *actions, float *obs, float *reward, uint8_t *terminated, uint8_t *truncated) {
    for (int64_t i = 0; i < n; i++) {
        Env *e = &envs[i];
        float force = actions[i] == 1 ? 10.0f : -10.0f;
        float sin = sinf(e->theta), cos = cosf(e->theta);
        float push = (force + 0.05f * e->theta_dot * e->theta_dot * sin) / 1.1f;
        float theta_acc = (9.8f * sin - cos * push) / (0.5f * (4.0f / 3.0f - 0.1f * cos * cos / 1.1f));
        float x_acc = push - 0.05f * theta_acc * cos / 1.1f;
        e->x += 0.02f * e->x_dot;
        e->x_dot += 0.02f * x_acc;
        e->theta += 0.02f * e->theta_dot;
        e->theta_dot += 0.02f * theta_acc;
        e->episode_return += 1.0f;
        e->elapsed += 1;
        reward[i] = 1.0f;
        terminated[i] = fabsf(e->x) > 2.4f || fabsf(e->theta) > 0.20943951f;
        truncated[i] = e->elapsed >= 500;
        if (terminated[i] || truncated[i]) begin(e);
        observe(e, obs + 4 * i);
    }
}
