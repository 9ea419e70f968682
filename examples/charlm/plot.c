/* SPDX-License-Identifier: BSD-3-Clause */
#include "plot.h"
#include "bits.h"
#include "series.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PANEL_W = 500,
    PANEL_H = 300,
    LEFT = 66,
    GAP = 62,
    TOP = 64,
    RIGHT = 26,
    AXIS = 52,
    LEGEND_ROW = 22,
    COLOURS = 7
};

/* Okabe and Ito's palette: told apart by colour-blind readers too. */
static const char *const colour[COLOURS] = {"#555555", "#e69f00", "#0072b2", "#d55e00",
                                            "#009e73", "#cc79a7", "#56b4e9"};

typedef struct axis {
    const char *name, *title;
    double low, high;
    int logarithmic;
} axis;

typedef struct plot {
    FILE *f;
    const char *title;
    series *runs;
    int count, labels;
    axis panels[3];
    int panel_count;
    double y_low, y_high;
} plot;

static double value_of(const point *p, const axis *a) {
    return *a->name == 's' ? p->step : *a->name == 't' ? p->time_s : p->wire_bytes;
}

/* ---- scales ---- */

static void number_colours(plot *p) {
    for (int i = 0; i < p->count; i++) {
        p->runs[i].colour = -1;
        for (int j = 0; j < i; j++)
            if (!strcmp(p->runs[i].label, p->runs[j].label))
                p->runs[i].colour = p->runs[j].colour;
        if (p->runs[i].colour < 0)
            p->runs[i].colour = p->labels++;
    }
}

/* The first fall from 8 bits would flatten all that matters, so the scale begins where a tenth of a run is done. */
static void scale_y(plot *p) {
    double low = 8, high = 0;
    for (int i = 0; i < p->count; i++) {
        const series *s = &p->runs[i];
        int last = s->points[s->count - 1].step;
        for (int k = 0; k < s->count; k++) {
            low = fmin(low, s->points[k].heldout_bits);
            if (s->points[k].step * 10 >= last)
                high = fmax(high, s->points[k].heldout_bits);
        }
    }
    p->y_low = low - 0.06 * (high - low) - 0.005;
    p->y_high = high + 0.06 * (high - low) + 0.005;
}

static void scale_x(const plot *p, axis *a) {
    double low = INFINITY, high = 0;
    for (int i = 0; i < p->count; i++)
        for (int k = 0; k < p->runs[i].count; k++) {
            double x = value_of(&p->runs[i].points[k], a);
            high = fmax(high, x);
            if (x > 0)
                low = fmin(low, x);
        }
    if (!(high > 0))
        low = 0.5, high = 1;
    a->low = a->logarithmic ? low / 1.2 : 0;
    a->high = a->logarithmic ? high * 1.5 : high * 1.03;
}

static double map_x(const axis *a, double x) {
    double at =
        a->logarithmic ? log(fmax(x, a->low) / a->low) / log(a->high / a->low) : (x - a->low) / (a->high - a->low);
    return at * PANEL_W;
}

static double map_y(const plot *p, double y) {
    return (p->y_high - y) / (p->y_high - p->y_low) * PANEL_H;
}

static double nice_step(double range, int wanted) {
    double rough = range / wanted, ten = pow(10, floor(log10(rough))), part = rough / ten;
    return ten * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10);
}

/* ---- drawing ---- */

static void escaped(FILE *f, const char *s) {
    for (; *s; s++)
        if (*s == '&' || *s == '<')
            fputs(*s == '&' ? "&amp;" : "&lt;", f);
        else
            fputc(*s, f);
}

static void tick(plot *p, double x, const char *said) {
    fprintf(p->f, "<path class='grid' d='M%.1f 0V%d'/><text x='%.1f' y='%d' text-anchor='middle'>%s</text>\n", x,
            PANEL_H, x, PANEL_H + 18, said);
}

static void bytes_text(char *out, size_t room, double bytes) {
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB"};
    int u = 0;
    for (; bytes >= 999.5 && u < 4; u++)
        bytes /= 1000;
    snprintf(out, room, bytes >= 99.95 ? "%.0f %s" : "%.3g %s", bytes, unit[u]);
}

static void x_ticks(plot *p, const axis *a) {
    char said[32];
    if (a->logarithmic) {
        int few = log10(a->high / a->low) < 2.5; /* few decades: 1, 2, 5 of each */
        static const double part[] = {1, 2, 5};
        for (double ten = pow(10, floor(log10(a->low))); ten <= a->high; ten *= 10)
            for (int i = 0; i < (few ? 3 : 1); i++)
                if (ten * part[i] >= a->low && ten * part[i] <= a->high) {
                    bytes_text(said, sizeof said, ten * part[i]);
                    tick(p, map_x(a, ten * part[i]), said);
                }
        return;
    }
    double by = nice_step(a->high - a->low, 7);
    for (int i = 0; by * i <= a->high; i++) {
        snprintf(said, sizeof said, "%g", by * i);
        tick(p, map_x(a, by * i), said);
    }
}

static void y_ticks(plot *p, int labels) {
    double by = nice_step(p->y_high - p->y_low, 7);
    for (double i = ceil(p->y_low / by); i * by <= p->y_high; i++) {
        double at = map_y(p, i * by);
        fprintf(p->f, "<path class='grid' d='M0 %.1fH%d'/>", at, PANEL_W);
        if (labels)
            fprintf(p->f, "<text x='-9' y='%.1f' text-anchor='end'>%.*f</text>", at + 4, by < 0.1 ? 2 : 1, i * by);
        fputc('\n', p->f);
    }
}

static void curve(plot *p, const axis *a, const series *s) {
    const char *stroke = colour[s->colour % COLOURS];
    double x = 0, y = 0;
    int first = 1;
    fprintf(p->f, "<path class='run' stroke='%s' d='", stroke);
    for (int k = 0; k < s->count; k++) {
        if (a->logarithmic && value_of(&s->points[k], a) <= 0)
            continue;
        x = map_x(a, value_of(&s->points[k], a));
        y = map_y(p, s->points[k].heldout_bits);
        fprintf(p->f, "%c%.1f %.1f", first ? 'M' : 'L', x, y);
        first = 0;
    }
    fputs("'/>\n", p->f);
    if (!first)
        fprintf(p->f, "<circle cx='%.1f' cy='%.1f' r='4' fill='%s' stroke='white' stroke-width='1.2'/>\n", x, y,
                stroke);
}

static void panel(plot *p, int i) {
    const axis *a = &p->panels[i];
    fprintf(p->f, "<g transform='translate(%d %d)'>\n", LEFT + i * (PANEL_W + GAP), TOP);
    y_ticks(p, 1);
    x_ticks(p, a);
    fputs("<g clip-path='url(#frame)'>\n", p->f);
    const series *base = &p->runs[0];
    fprintf(p->f, "<path class='goal' d='M0 %.1fH%d'/>\n", map_y(p, base->points[base->count - 1].heldout_bits),
            PANEL_W);
    for (int k = 0; k < p->count; k++)
        curve(p, a, &p->runs[k]);
    fputs("</g>\n", p->f);
    fprintf(p->f,
            "<path class='axis' d='M0 0V%dH%d'/>\n<text class='name' x='%d' y='%d' text-anchor='middle'>%s</text>\n",
            PANEL_H, PANEL_W, PANEL_W / 2, PANEL_H + 42, a->title);
    if (i == 0)
        fprintf(p->f,
                "<text class='name' transform='translate(-46 %d) rotate(-90)' text-anchor='middle'>bits per character, "
                "held-out text</text>\n",
                PANEL_H / 2);
    fputs("</g>\n", p->f);
}

/* Means over the runs of a label: of their last values. Seconds only beside a panel of time. */
static void figures(plot *p, int label, char *out, size_t room) {
    double bits = 0, seconds = 0, bytes = 0;
    int n = 0, timed = 0;
    char sent[32], took[32] = "", seeds[32] = "";
    for (int i = 0; i < p->count; i++) {
        const point *last = &p->runs[i].points[p->runs[i].count - 1];
        if (p->runs[i].colour == label)
            n++, bits += last->heldout_bits, seconds += last->time_s, bytes += last->wire_bytes;
    }
    for (int i = 0; i < p->panel_count; i++)
        timed |= *p->panels[i].name == 't';
    bytes_text(sent, sizeof sent, bytes / n);
    if (timed)
        snprintf(took, sizeof took, ", %.1f s", seconds / n);
    if (n > 1)
        snprintf(seeds, sizeof seeds, " (mean of %d runs)", n);
    snprintf(out, room, "%.3f bits/char%s, %s sent per worker%s", bits / n, took, sent, seeds);
}

static void legend(plot *p) {
    char said[160];
    int y = TOP + PANEL_H + AXIS + 16;
    for (int c = 0; c < p->labels; c++, y += LEGEND_ROW) {
        const series *s = p->runs;
        while (s->colour != c)
            s++;
        figures(p, c, said, sizeof said);
        fprintf(p->f, "<path class='run' stroke='%s' d='M%d %dh34'/><circle cx='%d' cy='%d' r='4' fill='%s'/>",
                colour[c % COLOURS], LEFT, y - 4, LEFT + 34, y - 4, colour[c % COLOURS]);
        fprintf(p->f, "<text class='label' x='%d' y='%d'>", LEFT + 48, y);
        escaped(p->f, s->label);
        fprintf(p->f, "<tspan class='figures' dx='12'>%s</tspan></text>\n", said);
    }
    fprintf(p->f, "<path class='goal' d='M%d %dh34'/><text x='%d' y='%d'>where ", LEFT, y - 4, LEFT + 48, y);
    escaped(p->f, p->runs[0].label);
    fprintf(p->f, " ends</text>\n");
}

static void draw(plot *p) {
    int width = LEFT + p->panel_count * PANEL_W + (p->panel_count - 1) * GAP + RIGHT;
    int height = TOP + PANEL_H + AXIS + 16 + (p->labels + 1) * LEGEND_ROW;
    fprintf(p->f,
            "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' viewBox='0 0 %d %d'>\n"
            "<style>text{font:13px system-ui,'DejaVu Sans',sans-serif;fill:#444}.title{font-size:18px;font-weight:600;"
            "fill:#111}.name{font-size:14px;fill:#222}.label{font-weight:600;fill:#111}"
            ".figures{font-weight:400;fill:#444}.grid{stroke:#e6e6e6;fill:none}.axis{stroke:#333;fill:none}"
            ".run{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke-opacity:.9}"
            ".goal{stroke:#555;stroke-dasharray:2 4;fill:none}</style>\n"
            "<clipPath id='frame'><rect x='0' y='-6' width='%d' height='%d'/></clipPath>\n"
            "<rect width='%d' height='%d' fill='white'/>\n<text class='title' x='%d' y='36'>",
            width, height, width, height, PANEL_W + 6, PANEL_H + 6, width, height, LEFT);
    escaped(p->f, p->title);
    fputs("</text>\n", p->f);
    for (int i = 0; i < p->panel_count; i++)
        panel(p, i);
    legend(p);
    fputs("</svg>\n", p->f);
}

static void choose_panels(plot *p, const char *list) {
    static const axis known[] = {{"steps", "steps", 0, 0, 0},
                                 {"time", "seconds of training", 0, 0, 0},
                                 {"bytes", "bytes sent per worker (log scale)", 0, 0, 1}};
    for (const char *s = list; *s && p->panel_count < 3; s += strcspn(s, ","), s += *s == ',') {
        int found = 0;
        for (int i = 0; i < 3; i++)
            if (strcspn(s, ",") == strlen(known[i].name) && !strncmp(s, known[i].name, strlen(known[i].name)))
                p->panels[p->panel_count++] = known[i], found = 1;
        if (!found)
            fail(2, "--panels takes a list of steps, time and bytes, not \"%s\"", list);
    }
    if (!p->panel_count)
        fail(2, "--panels takes at least one of steps, time and bytes");
}

void plot_check(const options *o) {
    plot p = {0};
    choose_panels(&p, o->panels);
}

static void make(const options *o, series *runs, int n) {
    plot p = {.runs = runs, .count = n, .title = o->title ? o->title : "charlm: held-out loss"};
    choose_panels(&p, o->panels);
    number_colours(&p);
    scale_y(&p);
    for (int i = 0; i < p.panel_count; i++)
        scale_x(&p, &p.panels[i]);
    p.f = fopen(o->plot, "w");
    if (!p.f)
        fail(1, "cannot write %s: %s", o->plot, strerror(errno));
    draw(&p);
    if (fclose(p.f))
        fail(1, "cannot write %s: %s", o->plot, strerror(errno));
}

void plot_run(const options *o, const result *r) {
    series s = {.points = r->curve, .count = r->points};
    snprintf(s.label, sizeof s.label, "%s", o->label);
    make(o, &s, 1);
}

void plot_files(const options *o) {
    series *runs;
    int n = series_read(o->plot_from, &runs);
    make(o, runs, n);
    series_free(runs, n);
}
