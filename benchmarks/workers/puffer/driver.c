/* N agents of PufferLib's Snake (-DSNAKE) or Breakout, stepped together as its binding does: actions copied in, one c_step an env. */
#include <stdint.h>
#include <string.h>

#ifdef SNAKE
#include "snake/snake.h"
typedef CSnake Env;
typedef int Action;
#else
#include "breakout/breakout.h"
typedef Breakout Env;
typedef float Action;
#endif
#define SHOWN __attribute__((visibility("default")))

static Env *envs;
static Action *actions;
static int num_envs, num_agents;

/* board, food and agents are of each env; Snake only. Rows of actions are num_agents long. */
SHOWN void make(int n, int agents, int width, int height, int food, int frameskip) {
    num_envs = n, num_agents = n * agents;
    envs = calloc(n, sizeof(Env));
    actions = calloc(num_agents, sizeof(Action));
    float *rewards = calloc(num_agents, sizeof(float));
    unsigned char *terminals = calloc(num_agents, 1);
    srand(0);
#ifdef SNAKE
    int vision = 5, size = (2 * vision + 1) * (2 * vision + 1);
    char *observations = calloc(num_agents, size);
#else
    int rows = 6, columns = 18, size = 10 + rows * columns;
    float *observations = calloc((size_t)num_agents * size, sizeof(float));
#endif
    for (int i = 0; i < n; i++) {
        Env *e = &envs[i];
        e->observations = observations + (size_t)i * agents * size;
        e->actions = actions + i * agents;
        e->rewards = rewards + i * agents;
        e->terminals = terminals + i * agents;
#ifdef SNAKE /* the defaults of snake.py */
        e->num_snakes = agents, e->width = width, e->height = height, e->food = food, e->vision = vision;
        e->max_snake_length = width * height < 1024 ? width * height : 1024;
        e->leave_corpse_on_death = 1, e->reward_food = 0.1f, e->reward_corpse = 0.1f, e->reward_death = -1.0f;
        init_csnake(e);
#else /* the defaults of breakout.py */
        e->frameskip = frameskip, e->width = 576, e->height = 330;
        e->paddle_width = 62, e->paddle_height = 8, e->ball_width = 32, e->ball_height = 32;
        e->brick_width = 32, e->brick_height = 12, e->brick_rows = rows, e->brick_cols = columns;
        init(e);
#endif
        c_reset(e);
    }
}

SHOWN void step_all(const Action *row) {
    memcpy(actions, row, num_agents * sizeof(Action));
    for (int i = 0; i < num_envs; i++)
        c_step(&envs[i]);
}

/* The mean length of the episodes that ended so far: to see that a game is being played. */
SHOWN double mean_length(void) {
    double length = 0, episodes = 0;
    for (int i = 0; i < num_envs; i++)
        length += envs[i].log.episode_length, episodes += envs[i].log.n;
    return episodes ? length / episodes : 0;
}
