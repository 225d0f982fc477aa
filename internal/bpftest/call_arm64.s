// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

// func callC(fn uintptr, args *[4]uintptr, result uintptr, inner uintptr, innerResult uintptr)
TEXT ·callC(SB), NOSPLIT, $16-40
	MOVD fn+0(FP), R9
	MOVD args+8(FP), R10
	MOVD result+16(FP), R8
	MOVD 0(R10), R0
	MOVD 8(R10), R1
	MOVD 16(R10), R2
	MOVD 24(R10), R3
	BL   (R9)
	RET
