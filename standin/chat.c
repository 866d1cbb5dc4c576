#include "chat.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *copy(Text text) { return strndup(text.bytes, text.length); }

static void replace(char **held, char *with) {
    free(*held);
    *held = with;
}

void chat_init(Chat *chat, const ChatPieces *pieces, bool bare) {
    *chat = (Chat){
        .system = strdup(""),
        .prefix = bare ? strdup("") : copy(pieces->prefix),
        .postfix = bare ? strdup("") : copy(pieces->postfix),
        .no_thinking = copy(pieces->no_thinking),
        .answer_end = copy(pieces->answer_end),
        .tool_tag = strdup("tool_response"),
        .is_models_own = !bare,
    };
}

void chat_free(Chat *chat) {
    char *owned[] = {chat->system,      chat->prefix,     chat->postfix,
                     chat->no_thinking, chat->answer_end, chat->tool_tag};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

void chat_set(Chat *chat, const char *system, const char *prefix, const char *postfix) {
    replace(&chat->system, strdup(system ? system : ""));
    replace(&chat->prefix, strdup(prefix ? prefix : ""));
    replace(&chat->postfix, strdup(postfix ? postfix : ""));
    chat->is_models_own = false;
}

/* The elements of a JSON array, a line each, as they are written there. */
static void write_elements(FILE *to, const char *json) {
    while (isspace((unsigned char)*json)) json++;
    bool is_array = *json == '[', in_string = false, written = false;
    if (!is_array) {
        fprintf(to, "%s\n", json);
        return;
    }
    int depth = 0;
    for (json++; *json; json++) {
        if (!depth && !in_string && (*json == ',' || *json == ']')) {
            if (written) fputc('\n', to);
            written = false;
            if (*json == ']') return;
            continue;
        }
        if (!written && isspace((unsigned char)*json)) continue;
        fputc(*json, to);
        written = true;
        if (in_string && *json == '\\' && json[1]) fputc(*++json, to);
        else if (*json == '"') in_string = !in_string;
        else if (!in_string) depth += (*json == '{' || *json == '[') - (*json == '}' || *json == ']');
    }
}

void chat_set_tools(Chat *chat, const ChatPieces *pieces, const char *system, const char *tools, const char *tag) {
    char *text = NULL;
    size_t length;
    FILE *to = open_memstream(&text, &length);
    Text open = pieces->tools_open;
    size_t skipped = system && *system ? 0 : 2; /* the blank line after the system prompt */
    fprintf(to, "%.*s%s", (int)pieces->system_open.length, pieces->system_open.bytes, system ? system : "");
    if (open.length >= skipped) fprintf(to, "%.*s", (int)(open.length - skipped), open.bytes + skipped);
    write_elements(to, tools);
    fprintf(to, "%.*s", (int)pieces->tools_close.length, pieces->tools_close.bytes);
    fclose(to);
    replace(&chat->system, text);
    if (tag && *tag) replace(&chat->tool_tag, strdup(tag));
}

char *chat_render(const Chat *chat, const char *text, Place place, bool is_tool_answer, bool thinking) {
    char *rendered = NULL;
    size_t length;
    FILE *to = open_memstream(&rendered, &length);
    if (place == AFTER_NOTHING) fputs(chat->system, to);
    if (place == AFTER_ANSWER && chat->is_models_own) fputs(chat->answer_end, to);
    fputs(chat->prefix, to);
    if (is_tool_answer) fprintf(to, "<%s>\n%s\n</%s>", chat->tool_tag, text, chat->tool_tag);
    else fputs(text, to);
    fputs(chat->postfix, to);
    if (chat->is_models_own && !thinking) fputs(chat->no_thinking, to);
    fclose(to);
    return rendered;
}
