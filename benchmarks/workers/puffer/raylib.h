/* What PufferLib's games name of raylib, to draw; none of it is ever called here, and the linker leaves out what would. */
#include <stdbool.h>

typedef struct { unsigned char r, g, b, a; } Color;
typedef struct { float x, y; } Vector2;
typedef struct { float x, y, width, height; } Rectangle;
typedef struct { unsigned int id; int width, height, mipmaps, format; } Texture2D;

enum { KEY_ESCAPE = 256, KEY_TAB = 258 };
#define WHITE (Color){255, 255, 255, 255}
#define RED WHITE
#define ORANGE WHITE
#define YELLOW WHITE
#define GREEN WHITE
#define SKYBLUE WHITE
#define BLUE WHITE

void InitWindow(int, int, const char *), CloseWindow(void), SetTargetFPS(int), ToggleFullscreen(void);
void BeginDrawing(void), EndDrawing(void), ClearBackground(Color);
void DrawRectangle(int, int, int, int, Color), DrawText(const char *, int, int, int, Color);
void DrawTexturePro(Texture2D, Rectangle, Rectangle, Vector2, float, Color);
bool IsKeyDown(int), IsKeyPressed(int);
const char *TextFormat(const char *, ...);
Texture2D LoadTexture(const char *);
