/* The model file at init: read and checked as a release does it, with the lines it logs. */
#ifndef STANDIN_LOAD_H
#define STANDIN_LOAD_H

#include "container.h"
#include "options.h"

/* `release` is major * 10000 + minor * 100 + patch. 0, or -1 and why not, in the vendor's words. */
int load_model(Container *container, const char *path, int max_context, int release, const Options *options);

#endif
