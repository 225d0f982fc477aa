// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

// func callC(fn uintptr, args *[4]uintptr, result uintptr, inner uintptr, innerResult uintptr)
TEXT ·callC(SB), NOSPLIT, $64-40
	MOVQ fn+0(FP), AX
	MOVQ args+8(FP), BX
	MOVQ result+16(FP), R8
	MOVQ inner+24(FP), R9
	MOVQ innerResult+32(FP), R10
	MOVQ 0(BX), DI
	MOVQ 8(BX), SI
	MOVQ 16(BX), DX
	MOVQ 24(BX), CX
	CALL AX
	RET
