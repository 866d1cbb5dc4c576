/* The prompt around a user's text, in the vendor's manner: system + prefix + text + postfix. */
#ifndef STANDIN_CHAT_H
#define STANDIN_CHAT_H

#include "container.h"

typedef struct {
    char *system, *prefix, *postfix, *no_thinking, *answer_end, *tool_tag;
    bool is_models_own;
} Chat;

void chat_init(Chat *chat, const ChatPieces *pieces, bool bare);
void chat_free(Chat *chat);
void chat_set(Chat *chat, const char *system, const char *prefix, const char *postfix);
void chat_set_tools(Chat *chat, const ChatPieces *pieces, const char *system, const char *tools, const char *tag);

/* What stands before the turn: a first one brings the system part, a later one closes the answer before it. */
typedef enum { AFTER_NOTHING, AFTER_SYSTEM, AFTER_ANSWER } Place;

/* For the caller to free. */
char *chat_render(const Chat *chat, const char *text, Place place, bool is_tool_answer, bool thinking);

#endif
