/* counter FILE LOG ACK USEC RING
     Counts for ever: writes the number to FILE and syncs it, appends it to LOG and syncs that, writes it into the slot (number modulo 16) of
     RING, whose slots lie 64 KiB apart, and so by turns on the two disks of a stripe, and syncs that; then writes it to ACK. Waits USEC
     microseconds.
   counter check RING
     Prints the greatest number, and TORN unless each slot has the greatest number that belongs there. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SLOTS = 16, SLOT = 65536, LINE = 21 };

static unsigned long number_at(int file, off_t offset) {
    char line[LINE + 1] = {0};
    return pread(file, line, LINE, offset) == LINE ? strtoul(line, NULL, 10) : 0;
}

static int check(const char *path) {
    int file = open(path, O_RDONLY);
    unsigned long has[SLOTS], greatest = 0;
    int torn = 0;
    if (file < 0) { perror(path); return 1; }
    for (int i = 0; i < SLOTS; i++) {
        has[i] = number_at(file, (off_t)i * SLOT);
        if (has[i] > greatest) greatest = has[i];
    }
    for (int i = 0; i < SLOTS; i++) {
        unsigned long back = (greatest % SLOTS + SLOTS - i) % SLOTS;
        /* Before the first round a slot has nothing. */
        unsigned long right = greatest > back ? greatest - back : 0;
        torn |= has[i] != right;
    }
    printf("ring max=%lu %s\n", greatest, torn ? "TORN" : "WHOLE");
    return torn;
}

static void must(int is_good, const char *what) {
    if (!is_good) { perror(what); exit(1); }
}

int main(int count, char **words) {
    if (count == 3) return check(words[2]);
    int file = open(words[1], O_RDWR | O_CREAT, 0644), log = open(words[2], O_WRONLY | O_CREAT | O_APPEND, 0644);
    int ack = open(words[3], O_WRONLY), ring = open(words[5], O_RDWR | O_CREAT, 0644);
    must(file >= 0 && log >= 0 && ring >= 0, "open");
    unsigned long number = number_at(file, 0);
    if (number == 0) {
        static char zeroes[SLOT];
        for (int i = 0; i < SLOTS; i++) must(write(ring, zeroes, SLOT) == SLOT, "ring");
        must(fsync(ring) == 0, "ring");
    }
    for (;;) {
        char line[LINE + 1];
        snprintf(line, sizeof line, "%020lu\n", ++number);
        must(pwrite(file, line, LINE, 0) == LINE && fsync(file) == 0, "counter FAIL");
        must(write(log, line, LINE) == LINE && fdatasync(log) == 0, "log FAIL");
        must(pwrite(ring, line, LINE, (off_t)(number % SLOTS) * SLOT) == LINE && fdatasync(ring) == 0, "ring FAIL");
        if (ack >= 0 && write(ack, line, LINE) < 0) perror("ack");
        usleep(atoi(words[4]));
    }
}
