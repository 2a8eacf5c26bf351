"""The table: what POSIX.1-2017 says of each call, and what Linux does where POSIX leaves a choice.  The groups are those of
pjdfstest (Pawel Jakub Dawidek, 2006); the words and scripts are this project's own."""

TABLES = {
    "chmod": """
permissions become what is asked for
    make {plain} a; chmod a 0111; stat a mode = 0111; chmod a 0640; stat a mode = 0640; chmod a 7777; stat a mode = 7777
it follows a symbolic link
    make FILE a; symlink a s; chmod s 0321; stat a mode = 0321; lstat s mode = 0777
the time of change moves
    make {plain} a; note a; chmod a 0700; moved a = c
a refused one moves nothing
    make {plain} a; note a; bob@chmod a 0700 = EPERM; moved a = nothing; stat a mode = 0644
a part of the way that is no directory is ENOTDIR
    make {other} a; chmod a/b 0644 = ENOTDIR|ENOENT
a part of the way that is a file is ENOTDIR
    make FILE a; chmod a/b 0644 = ENOTDIR
a name of 255 bytes works and one of 256 does not
    make FILE $255; chmod $255 0620; stat $255 mode = 0620; chmod $256 0620 = ENAMETOOLONG
what is not there is ENOENT
    chmod a 0644 = ENOENT; chmod a/b 0644 = ENOENT; symlink gone s; chmod s 0644 = ENOENT
without search permission on the way it is EACCES
    mkdir d 0755; chown d 1001 1001; ada@make FILE d/a; ada@chmod d/a 0642; ada@chmod d 0644
    ada@chmod d/a 0620 = EACCES; ada@chmod d 0755; ada@chmod d/a 0420; ada@stat d/a mode = 0420
only the owner and the privileged may
    make {plain} a; chown a 1001 1001; ada@chmod a 0600; stat a mode = 0600; bob@chmod a 0644 = EPERM
    eve@chmod a 0644 = EPERM; stat a mode = 0600; chmod a 0444; stat a mode = 0444
links that lead in a circle are ELOOP
    symlink a b; symlink b a; chmod a 0644 = ELOOP; chmod b/x 0644 = ELOOP
set-group-ID is not given for a group that the owner is not in
    make FILE a 0755; chown a 1001 1002; ada@chmod a 2755; stat a mode = 0755
set-group-ID is given for a group that the owner is in
    make FILE a 0755; chown a 1003 1004; eve@chmod a 2755; stat a mode = 2755
the privileged may set it for any group
    make FILE a 0755; chown a 1001 1002; chmod a 2755; stat a mode = 2755
a directory keeps its sticky bit
    mkdir d; chmod d 1777; stat d mode = 1777
""",
    "chown": """
owner and group become what is asked for
    make {plain} a; chown a 123 456; stat a uid = 123; stat a gid = 456; chown a 0 0; stat a uid = 0; stat a gid = 0
one of the two can stay
    make {plain} a; chown a 123 456; chown a - 7; stat a uid = 123; stat a gid = 7; chown a 8 -; stat a uid = 8
    stat a gid = 7
numbers need more than 16 bits
    make FILE a; chown a 65536 4294967294; stat a uid = 65536; stat a gid = 4294967294
it follows a symbolic link and lchown does not
    make FILE a; symlink a s; chown s 5 6; stat a uid = 5; lstat s uid = 0; lchown s 7 8; lstat s uid = 7; lstat s gid = 8
    stat a uid = 5; stat a gid = 6
the time of change moves
    make {any} a; note a; lchown a 1 2; moved a = c
a refused one moves nothing
    make {plain} a; note a; bob@chown a 1002 1002 = EPERM; moved a = nothing
an owner gives to one of the own groups
    make {plain} a; chown a 1003 1003; eve@chown a - 1004; stat a gid = 1004; eve@chown a 1003 1001; stat a gid = 1001
an owner gives to no other group
    make {plain} a; chown a 1003 1003; eve@chown a - 1002 = EPERM; stat a gid = 1003
an owner cannot give it away
    make {plain} a; chown a 1001 1001; ada@chown a 1002 - = EPERM; ada@chown a 0 0 = EPERM; stat a uid = 1001
who does not own it cannot take it
    make {plain} a; chown a 1001 1001; bob@chown a 1002 1002 = EPERM; eve@chown a - 1003 = EPERM; stat a uid = 1001
set-ID bits go when the owner changes the group
    make FILE a; chown a 1003 1003; chmod a 6555; eve@chown a - 1004; stat a mode = 0555
set-ID bits of a directory stay
    make DIRECTORY a; chown a 1003 1003; chmod a 6555; chown a - 1004; stat a mode = 6555
a set-group-ID bit without execution stays
    make FILE a; chown a 1003 1003; chmod a 2644; chown a - 1004; stat a mode = 2644
a part of the way that is a file is ENOTDIR
    make FILE a; chown a/b 1 1 = ENOTDIR
what is not there is ENOENT
    chown a 1 1 = ENOENT; chown a/b 1 1 = ENOENT; symlink gone s; chown s 1 1 = ENOENT
a name of 256 bytes is too long
    make FILE $255; chown $255 3 4; stat $255 uid = 3; chown $256 1 1 = ENAMETOOLONG
without search permission on the way it is EACCES
    mkdir d; chown d 1001 1001; ada@make FILE d/a; ada@chmod d 0644; ada@chown d/a - 1001 = EACCES; ada@chmod d 0755
    ada@chown d/a - 1001
links that lead in a circle are ELOOP
    symlink a b; symlink b a; chown a 1 1 = ELOOP; chown a/x 1 1 = ELOOP; lchown a 1 1; lstat a uid = 1
""",
    "truncate": """
a file gets the size
    make FILE a; truncate a 1234567; stat a size = 1234567; truncate a 567; stat a size = 567; truncate a 0
    stat a size = 0
what is cut off is gone, and zeros come back
    make FILE a; write a abcdef; truncate a 3; read a = abc; truncate a 5; hold h a RDONLY; hread h = abc\0\0
contents and change get new times
    make FILE a; note a; truncate a 123; moved a = mc
a refused one moves nothing
    make FILE a; note a; bob@truncate a 123 = EACCES; moved a = nothing; stat a size = 0
a part of the way that is a file is ENOTDIR
    make FILE a; truncate a/b 1 = ENOTDIR
a name of 256 bytes is too long
    make FILE $255; truncate $255 7; stat $255 size = 7; truncate $256 1 = ENAMETOOLONG
what is not there is ENOENT
    truncate a 1 = ENOENT; truncate a/b 1 = ENOENT; symlink gone s; truncate s 1 = ENOENT
without search permission on the way it is EACCES
    mkdir d; chown d 1001 1001; ada@make FILE d/a; ada@chmod d 0644; ada@truncate d/a 3 = EACCES; ada@chmod d 0755
    ada@truncate d/a 3; stat d/a size = 3
without write permission it is EACCES
    make FILE a; bob@truncate a 1 = EACCES; chown a 1001 1001; chmod a 0444; ada@truncate a 1 = EACCES
    chmod a 0466; ada@truncate a 1 = EACCES; bob@truncate a 1; stat a size = 1
links that lead in a circle are ELOOP
    symlink a b; symlink b a; truncate a 1 = ELOOP; truncate a/x 1 = ELOOP
a directory is EISDIR
    mkdir d; truncate d 0 = EISDIR
what has no contents is EINVAL
    make {rest} a; truncate a 0 = EINVAL
a negative size is EINVAL
    make FILE a; truncate a -1 = EINVAL; stat a size = 0
a size beyond what any file can have is EFBIG
    make FILE a; truncate a 999999999999999 = EFBIG; stat a size = 0
it follows a symbolic link
    make FILE a; symlink a s; truncate s 9; stat a size = 9
set-ID bits go with a change by the unprivileged
    make FILE a; chown a 1001 1001; chmod a 6755; ada@truncate a 5; stat a mode = 0755
""",
    "ftruncate": """
an open file gets the size
    hold h a RDWR,CREAT; ftruncate h 1234567; hstat h size = 1234567; ftruncate h 567; stat a size = 567
what is cut off is gone, and zeros come back
    hold h a RDWR,CREAT; hwrite h abcdef; ftruncate h 3; ftruncate h 4; hread h = abc\0
contents and change get new times
    hold h a RDWR,CREAT; note a; ftruncate h 100; moved a = mc
it needs a file opened for writing
    make FILE a; hold h a RDONLY; ftruncate h 1 = EINVAL|EBADF; stat a size = 0
permissions count when opening, not when cutting
    mkdir d 0777; ada@hold h d/a RDWR,CREAT 0000; ada@ftruncate h 77; stat d/a size = 77
a file without a name can be cut
    hold h a RDWR,CREAT; unlink a; ftruncate h 10; hstat h size = 10; hstat h links = 0
a negative size is EINVAL
    hold h a RDWR,CREAT; ftruncate h -1 = EINVAL
a size beyond what any file can have is EFBIG
    hold h a RDWR,CREAT; ftruncate h 999999999999999 = EFBIG; hstat h size = 0
the position stays where it was
    hold h a RDWR,CREAT; hwrite h abcd; ftruncate h 0; hwrite h ef; hread h = \0\0\0\0ef
""",
    "link": """
a second name is the same file
    make {other} a; link a b; lstat a links = 2; lstat b links = 2; lstat b kind = {other}; unlink a; lstat a = ENOENT
    lstat b links = 1; unlink b; lstat b = ENOENT
contents are the same under both names
    make FILE a; link a b; write b text; read a = text; unlink a; read b = text
permissions and owner are the same under both
    make FILE a; link a b; chmod b 0201; stat a mode = 0201; chown a 3 4; stat b uid = 3; stat b gid = 4
the time of change of the file moves, and both of the directory
    mkdir d; make {other} a; note a; note d; link a d/b; moved a = c; moved d = mc
a refused one moves nothing
    mkdir d; make FILE a; note a; note d; bob@link a d/b = EACCES; moved a = nothing; moved d = nothing
a directory has one name
    mkdir d; link d e = EPERM; lstat e = ENOENT; ada@mkdir f; ada@link f g = EPERM
what exists is EEXIST
    make FILE a; make {any} b; link a b = EEXIST; lstat a links = 1
a part of the way that is a file is ENOTDIR
    make FILE a; make FILE f; link f/x b = ENOTDIR; link a f/x = ENOTDIR
a name of 256 bytes is too long
    make FILE a; link a $255; unlink $255; link a $256 = ENAMETOOLONG; link $256 b = ENAMETOOLONG
what is not there is ENOENT
    make FILE a; link b c = ENOENT; link a d/e = ENOENT; link d/e a = ENOENT
without search permission on the way it is EACCES
    mkdir d; mkdir e; chown d 1001 1001; chown e 1001 1001; ada@make FILE d/a; ada@chmod d 0644; ada@link d/a e/b = EACCES
    ada@chmod d 0755; ada@chmod e 0644; ada@link d/a e/b = EACCES; ada@chmod e 0755; ada@link d/a e/b
without write permission on the directory it is EACCES
    mkdir d; chown d 1001 1001; ada@make FILE d/a; ada@chmod d 0555; ada@link d/a d/b = EACCES; ada@chmod d 0755
    ada@link d/a d/b; stat d/a links = 2
links that lead in a circle are ELOOP
    make FILE a; symlink x y; symlink y x; link x/z b = ELOOP; link a x/z = ELOOP
a symbolic link is not followed
    make FILE a; symlink a s; link s t; lstat t kind = SYMLINK; stat a links = 1; lstat s links = 2
a slash behind the new name of a file finds nothing
    make FILE a; link a b/ = ENOENT; link a/ b = ENOTDIR
a file whose last name went has none to give
    hold h a RDWR,CREAT; unlink a; link a b = ENOENT
""",
    "mkdir": """
a directory has the mode asked for, less the mask
    mkdir a 0755; stat a kind = DIRECTORY; stat a mode = 0755; mkdir b 0151; stat b mode = 0151; umask 077; mkdir c 0151
    stat c mode = 0100; umask 070; mkdir d 0345; stat d mode = 0305; umask 0501; mkdir e 0345; stat e mode = 0244
it belongs to who made it
    ada@mkdir a; stat a uid = 1001; stat a gid = 1001; mkdir b; stat b uid = 0; stat b gid = 0
a set-group-ID directory gives its group and its bit
    mkdir d; chown d - 1004; chmod d 2777; ada@mkdir d/a; stat d/a gid = 1004; stat d/a mode = 2755; stat d/a uid = 1001
it has two links, and its parent one more
    mkdir d; stat d links = 2; mkdir d/a; stat d/a links = 2; stat d links = 3; mkdir d/b; stat d links = 4
it is empty, and knows its parent
    mkdir d; list d = nothing; stat d/.. kind = DIRECTORY; mkdir d/e; list d = e; list d/e/.. = e; list d/e/. = nothing
all its times and two of its parent are new
    mkdir d; note d; mkdir d/a; moved d/a d = amc; moved d = mc
a part of the way that is a file is ENOTDIR
    make FILE a; mkdir a/b = ENOTDIR
a name of 256 bytes is too long
    mkdir $255; rmdir $255; mkdir $256 = ENAMETOOLONG
a missing way is ENOENT
    mkdir a/b = ENOENT; symlink gone s; mkdir s/b = ENOENT
without search permission on the way it is EACCES
    mkdir d; chown d 1001 1001; ada@mkdir d/a; ada@chmod d 0644; ada@mkdir d/b = EACCES; ada@chmod d 0755; ada@mkdir d/b
without write permission on the directory it is EACCES
    mkdir d; chown d 1001 1001; ada@chmod d 0555; ada@mkdir d/b = EACCES; ada@chmod d 0755; ada@mkdir d/b
    bob@mkdir d/c = EACCES
what exists is EEXIST
    make {any} a; mkdir a = EEXIST; mkdir . = EEXIST; mkdir .. = EEXIST; mkdir / = EEXIST
links that lead in a circle are ELOOP
    symlink a b; symlink b a; mkdir a/x = ELOOP; mkdir a = EEXIST
a slash behind the name is allowed
    mkdir a/; stat a kind = DIRECTORY; mkdir b///; stat b/// kind = DIRECTORY
an empty name is nothing
    mkdir a; symlink a s; mkdir s = EEXIST; mkdir s/b; stat a/b kind = DIRECTORY
""",
    "mkfifo": """
a FIFO has the mode asked for, less the mask
    make FIFO a 0755; lstat a kind = FIFO; stat a mode = 0755; umask 077; make FIFO c 0151; stat c mode = 0100
    umask 0345; make FIFO d 0345; stat d mode = 0000
it belongs to who made it
    ada@make FIFO a; stat a uid = 1001; stat a gid = 1001
all its times and two of its directory are new
    mkdir d; note d; make FIFO d/a; moved d/a d = amc; moved d = mc
a part of the way that is a file is ENOTDIR
    make FILE a; make FIFO a/b = ENOTDIR
a name of 256 bytes is too long
    make FIFO $255; unlink $255; make FIFO $256 = ENAMETOOLONG
a missing way is ENOENT
    make FIFO a/b = ENOENT
without permission it is EACCES
    mkdir d; chown d 1001 1001; ada@chmod d 0444; ada@make FIFO d/a = EACCES; ada@chmod d 0555
    ada@make FIFO d/a = EACCES; ada@chmod d 0755; ada@make FIFO d/a
what exists is EEXIST
    make {any} a; make FIFO a = EEXIST
links that lead in a circle are ELOOP
    symlink a b; symlink b a; make FIFO a/x = ELOOP
a slash behind the name finds nothing
    make FIFO a/ = ENOENT
it has no size and takes no sectors
    make FIFO a; stat a size = 0; stat a sectors = 0
""",
    "mknod": """
each kind of file is what it was made as, with mode and mask
    make {rest} a 0755; lstat a kind = {rest}; stat a mode = 0755; umask 077; make {rest} b 0757; stat b mode = 0700
devices keep their number
    make CHARACTER_DEVICE a; stat a device = 291; make BLOCK_DEVICE b; stat b device = 291; make FIFO c; stat c device = 0
devices are for the privileged
    ada@make CHARACTER_DEVICE a = EPERM; ada@make BLOCK_DEVICE a = EPERM; ada@make SOCKET a; lstat a kind = SOCKET
all its times and two of its directory are new
    mkdir d; note d; make {rest} d/a; moved d/a d = amc; moved d = mc
a part of the way that is a file is ENOTDIR
    make FILE a; make {rest} a/b = ENOTDIR
a name of 256 bytes is too long
    make {rest} $255; unlink $255; make {rest} $256 = ENAMETOOLONG
a missing way is ENOENT
    make {rest} a/b = ENOENT
what exists is EEXIST
    make {any} a; make {rest} a = EEXIST
links that lead in a circle are ELOOP
    symlink a b; symlink b a; make {rest} a/x = ELOOP
""",
    "open": """
a new file has the mode asked for, less the mask
    open a WRONLY,CREAT 0755; stat a mode = 0755; open b WRONLY,CREAT 0151; stat b mode = 0151; umask 077
    open c WRONLY,CREAT 0151; stat c mode = 0100; umask 0501; open d WRONLY,CREAT 0345; stat d mode = 0244
it belongs to who made it, or has the group of a set-group-ID directory
    ada@make FILE a; stat a uid = 1001; stat a gid = 1001; mkdir d; chown d - 1004; chmod d 2777; ada@make FILE d/b
    stat d/b gid = 1004; stat d/b uid = 1001
a new file's times and two of its directory are new
    mkdir d; note d; open d/a WRONLY,CREAT; moved d/a d = amc; moved d = mc
an existing file's directory keeps its times
    mkdir d; make FILE d/a; note d; open d/a WRONLY,CREAT; moved d = nothing
cutting off when opening moves the times
    make FILE a; write a text; note a; open a WRONLY,TRUNC; moved a = mc; stat a size = 0
an existing file keeps its mode
    make FILE a 0600; open a WRONLY,CREAT 0777; stat a mode = 0600
a file opened with a mode that forbids it is open all the same
    ada@hold h a RDWR,CREAT 0000; ada@hwrite h text; ada@hread h = text; ada@open a RDONLY = EACCES
writing moves contents and change
    hold h a RDWR,CREAT; note a; hwrite h text; moved a = mc
what is appended goes to the end
    make FILE a; write a one; hold h a WRONLY,APPEND; hseek h 0; hwrite h two; read a = onetwo
who reads cannot write and the other way round
    make FILE a; hold r a RDONLY; hwrite r x = EBADF; hold w a WRONLY; hread w = EBADF
a part of the way that is a file is ENOTDIR
    make FILE a; open a/b RDONLY = ENOTDIR; open a/b WRONLY,CREAT = ENOTDIR
a name of 256 bytes is too long
    open $255 WRONLY,CREAT; unlink $255; open $256 WRONLY,CREAT = ENAMETOOLONG
what is not there is ENOENT
    open a RDONLY = ENOENT; open a/b RDONLY = ENOENT; open a/b WRONLY,CREAT = ENOENT
without search permission on the way it is EACCES
    mkdir d; chown d 1001 1001; ada@make FILE d/a; ada@chmod d 0644; ada@open d/a RDONLY = EACCES; ada@chmod d 0755
    ada@open d/a RDONLY
the owner's bits count for the owner
    make FILE a; chown a 1001 1001; chmod a 0477; ada@open a RDONLY; ada@open a WRONLY = EACCES; ada@open a RDWR = EACCES
    chmod a 0277; ada@open a RDONLY = EACCES; ada@open a WRONLY; chmod a 0077; ada@open a RDONLY = EACCES
the group's bits count for the group
    make FILE a; chown a 0 1001; chmod a 0747; ada@open a RDONLY; ada@open a WRONLY = EACCES; eve@open a RDONLY
    eve@open a WRONLY = EACCES; chmod a 0727; ada@open a RDONLY = EACCES; eve@open a WRONLY
the others' bits count for the others
    make FILE a; chmod a 0774; bob@open a RDONLY; bob@open a WRONLY = EACCES; chmod a 0772; bob@open a WRONLY
    bob@open a RDONLY = EACCES; chmod a 0770; bob@open a RDONLY = EACCES
cutting off needs write permission
    make FILE a; write a text; chown a 1001 1001; chmod a 0444; ada@open a RDONLY,TRUNC = EACCES; stat a size = 4
making needs write permission on the directory
    mkdir d; bob@open d/a WRONLY,CREAT = EACCES; chmod d 0777; bob@open d/a WRONLY,CREAT
links that lead in a circle are ELOOP
    symlink a b; symlink b a; open a RDONLY = ELOOP; open a/x RDONLY = ELOOP; open a WRONLY,CREAT = ELOOP
forty links are followed and forty-one are not
    make FILE l0; symlink l0 l1; symlink l1 l2; symlink l2 l3; symlink l3 l4; symlink l4 l5; symlink l5 l6; symlink l6 l7
    symlink l7 l8; symlink l8 l9; symlink l9 l10; symlink l10 l11; symlink l11 l12; symlink l12 l13; symlink l13 l14
    symlink l14 l15; symlink l15 l16; symlink l16 l17; symlink l17 l18; symlink l18 l19; symlink l19 l20; symlink l20 l21
    symlink l21 l22; symlink l22 l23; symlink l23 l24; symlink l24 l25; symlink l25 l26; symlink l26 l27; symlink l27 l28
    symlink l28 l29; symlink l29 l30; symlink l30 l31; symlink l31 l32; symlink l32 l33; symlink l33 l34; symlink l34 l35
    symlink l35 l36; symlink l36 l37; symlink l37 l38; symlink l38 l39; symlink l39 l40; symlink l40 l41
    open l40 RDONLY; open l41 RDONLY = ELOOP
a directory cannot be written to
    mkdir d; open d WRONLY = EISDIR; open d RDWR = EISDIR; open d RDONLY,TRUNC = EISDIR; open d WRONLY,CREAT = EISDIR
    open d RDONLY
a symbolic link is not followed if that is forbidden
    make FILE a; symlink a s; open s RDONLY,NOFOLLOW = ELOOP; open s RDONLY; open a RDONLY,NOFOLLOW
what must be a directory is one
    make FILE a; mkdir d; open a RDONLY,DIRECTORY = ENOTDIR; open d RDONLY,DIRECTORY; symlink d s
    open s RDONLY,DIRECTORY; open s RDONLY,DIRECTORY,NOFOLLOW = ENOTDIR
what exists is EEXIST if it must be new
    make {any} a; open a WRONLY,CREAT,EXCL = EEXIST
a dangling link makes its target
    symlink b s; open s WRONLY,CREAT; lstat b kind = FILE; lstat s kind = SYMLINK
a dangling link is in the way of what must be new
    symlink b s; open s WRONLY,CREAT,EXCL = EEXIST; lstat b = ENOENT
a slash behind a file's name is ENOTDIR, behind a new one EISDIR
    make FILE a; open a/ RDONLY = ENOTDIR; open b/ WRONLY,CREAT = EISDIR
set-ID bits go when the unprivileged write
    make FILE a; chown a 1001 1001; chmod a 6777; bob@write a x; stat a mode = 0777; chmod a 6777; write a y
    stat a mode = 6777
what is behind the end reads as zeros after writing further on
    hold h a RDWR,CREAT; hseek h 3; hwrite h x; hread h = \0\0\0x
""",
    "rename": """
everything but the name stays
    make {any} a; rename a b; lstat a = ENOENT; lstat b kind = {any}; lstat b uid = 0
contents and attributes go along
    make FILE a 0612; write a text; chown a 5 6; rename a b; read b = text; stat b mode = 0612; stat b uid = 5
into another directory
    mkdir d; make {any} a; rename a d/b; lstat a = ENOENT; lstat d/b kind = {any}; list d = b
over an existing one, which is gone
    make {other} a; make {other} b; note b; lstat a links = 1; rename a b; lstat a = ENOENT; lstat b links = 1; list . = b
over a file with another name
    make FILE a; make FILE b; write b old; link b c; write a new; rename a b; read b = new; read c = old; stat c links = 1
over an empty directory
    mkdir a; mkdir a/x; mkdir b; rename a b; lstat a = ENOENT; list b = x; stat . links = 3
two names of one file stay two
    make FILE a; link a b; rename a b; stat a links = 2; list . = a,b
a name onto itself stays
    make {any} a; rename a a; lstat a kind = {any}
times of both directories move, and the change of what moved
    mkdir d; mkdir e; make {any} d/a; note d; note e; note d/a; rename d/a e/b; moved d = mc; moved e = mc
    moved e/b d/a = c
a refused one moves nothing
    mkdir d; make FILE d/a; note d; note d/a; bob@rename d/a d/b = EACCES; moved d = nothing; moved d/a = nothing
a directory takes its parent's link with it
    mkdir d; mkdir e; mkdir d/a; stat d links = 3; stat e links = 2; rename d/a e/a; stat d links = 2; stat e links = 3
    mkdir e/a/x; list e/a/.. = a; list e/a/x/../.. = a
a name of 256 bytes is too long
    make FILE a; rename a $255; rename $255 a; rename a $256 = ENAMETOOLONG; rename $256 b = ENAMETOOLONG; lstat a = FILE
what is not there is ENOENT
    rename a b = ENOENT; make FILE a; rename a d/b = ENOENT; rename d/b a = ENOENT
a part of the way that is a file is ENOTDIR
    make FILE a; make FILE f; rename f/x b = ENOTDIR; rename a f/x = ENOTDIR
without search permission on the way it is EACCES
    mkdir d; mkdir e; chown d 1001 1001; chown e 1001 1001; ada@make FILE d/a; ada@chmod d 0644
    ada@rename d/a e/b = EACCES; ada@chmod d 0755; ada@chmod e 0644; ada@rename d/a e/b = EACCES; ada@chmod e 0755
    ada@rename d/a e/b
without write permission on either directory it is EACCES
    mkdir d; mkdir e; chown d 1001 1001; chown e 1001 1001; ada@make FILE d/a; ada@chmod d 0555
    ada@rename d/a e/b = EACCES; ada@chmod d 0755; ada@chmod e 0555; ada@rename d/a e/b = EACCES; ada@chmod e 0755
    ada@rename d/a e/b
links that lead in a circle are ELOOP
    make FILE f; symlink a b; symlink b a; rename a/x c = ELOOP; rename f a/x = ELOOP; rename a c; lstat c = SYMLINK
in a sticky directory only owners take away
    mkdir d; chmod d 1777; ada@make FILE d/a; bob@rename d/a d/b = EPERM|EACCES; ada@rename d/a d/b
    bob@make FILE d/c; bob@rename d/c d/b = EPERM|EACCES; rename d/c d/b; list d = b
the owner of a sticky directory may
    mkdir d; chown d 1002 1002; chmod d 1777; ada@make FILE d/a; bob@rename d/a d/b; list d = b
a directory over something else is ENOTDIR
    mkdir d; make {other} a; rename d a = ENOTDIR; lstat a kind = {other}; lstat d = DIRECTORY
something else over a directory is EISDIR
    mkdir d; make {other} a; rename a d = EISDIR; lstat a kind = {other}; list d = nothing
over a directory that is not empty is ENOTEMPTY
    mkdir a; mkdir b; make {any} b/x; rename a b = ENOTEMPTY|EEXIST; list b = x; list a = nothing
a directory does not go into itself
    mkdir a; mkdir a/b; rename a a/b/c = EINVAL; rename a a/c = EINVAL; list a = b; stat a links = 3
a directory does not go over one it lies in
    mkdir a; mkdir a/b; rename a/b a = ENOTEMPTY|EINVAL; list a = b
the special names stay
    mkdir a; rename a/. b = EINVAL; rename a/.. b = EINVAL; mkdir c; rename c a/.. = EINVAL; rename c a/. = EINVAL
moving a directory needs write permission on it
    mkdir d 0777; mkdir d/a; chown d/a 1001 1001; mkdir e 0777; chmod d/a 0555; ada@rename d/a e/a = EACCES
    ada@rename d/a d/b; chmod d/b 0755; ada@rename d/b e/a
a symbolic link is renamed, not followed
    make FILE a; symlink a s; rename s t; lstat t = SYMLINK; readlink t = a; stat a links = 1
a slash behind the name of what is no directory is ENOTDIR
    make FILE a; rename a/ b = ENOTDIR; rename a b/ = ENOTDIR; mkdir d; rename d e/; lstat e = DIRECTORY
an open file that is replaced can still be read
    make FILE a; write a old; hold h a RDONLY; make FILE b; write b new; rename b a; hread h = old; read a = new
    hstat h links = 0
""",
    "rmdir": """
it is gone, and its parent has a link less
    mkdir d; mkdir d/a; stat d links = 3; rmdir d/a; stat d links = 2; lstat d/a = ENOENT; list d = nothing
times of the parent move
    mkdir d; mkdir d/a; note d; rmdir d/a; moved d = mc
a refused one moves nothing
    mkdir d; mkdir d/a; note d; bob@rmdir d/a = EACCES; moved d = nothing
what is no directory is ENOTDIR
    make {other} a; rmdir a = ENOTDIR; lstat a kind = {other}
a part of the way that is a file is ENOTDIR
    make FILE a; rmdir a/b = ENOTDIR
a name of 256 bytes is too long
    mkdir $255; rmdir $255; rmdir $256 = ENAMETOOLONG
what is not there is ENOENT
    rmdir a = ENOENT; rmdir a/b = ENOENT; mkdir a; rmdir a; rmdir a = ENOENT
links that lead in a circle are ELOOP
    symlink a b; symlink b a; rmdir a/x = ELOOP; rmdir a = ENOTDIR
what is not empty is ENOTEMPTY
    mkdir d; make {any} d/a; rmdir d = ENOTEMPTY|EEXIST; lstat d/a kind = {any}
without search permission on the way it is EACCES
    mkdir d; chown d 1001 1001; ada@mkdir d/a; ada@chmod d 0644; ada@rmdir d/a = EACCES; ada@chmod d 0755; ada@rmdir d/a
without write permission on the directory it is EACCES
    mkdir d; chown d 1001 1001; ada@mkdir d/a; ada@chmod d 0555; ada@rmdir d/a = EACCES; ada@chmod d 0755; ada@rmdir d/a
in a sticky directory only owners take away
    mkdir d; chmod d 1777; ada@mkdir d/a; bob@rmdir d/a = EPERM|EACCES; ada@rmdir d/a; ada@mkdir d/a; rmdir d/a
the special names stay
    mkdir a; rmdir a/. = EINVAL; mkdir a/b; rmdir a/b/.. = ENOTEMPTY|EINVAL; list a = b
a symbolic link to a directory stays
    mkdir d; symlink d s; rmdir s = ENOTDIR; rmdir d; lstat s = SYMLINK
a slash behind the name is allowed
    mkdir d; rmdir d/; lstat d = ENOENT
a removed directory that is open takes nothing new
    mkdir d; hold h d RDONLY; rmdir d; mkdir d; rmdir d; hstat h links = 0
""",
    "symlink": """
it has the target, and its length for a size
    symlink some/where s; lstat s kind = SYMLINK; readlink s = some/where; lstat s size = 10; lstat s mode = 0777
it leads where it says
    make FILE a; write a text; symlink a s; read s = text; stat s kind = FILE; unlink a; stat s = ENOENT; lstat s = SYMLINK
a target of any length up to a path's is kept
    symlink $59 a; lstat a size = 59; readlink a = $59; symlink $60 b; lstat b size = 60; readlink b = $60
    symlink $61 c; lstat c size = 61; symlink $1000 d; lstat d size = 1000; readlink d = $1000; stat a = ENOENT
    stat d = ENAMETOOLONG
a target that is too long is refused
    symlink $4096 a = ENAMETOOLONG; lstat a = ENOENT
it belongs to who made it
    ada@symlink x s; lstat s uid = 1001; lstat s gid = 1001
all its times and two of its directory are new
    mkdir d; note d; symlink x d/s; moved d/s d = amc; moved d = mc
a part of the way that is a file is ENOTDIR
    make FILE a; symlink x a/b = ENOTDIR
a name of 256 bytes is too long
    symlink x $255; unlink $255; symlink x $256 = ENAMETOOLONG
a missing way is ENOENT
    symlink x a/b = ENOENT; symlink NOTHING a = ENOENT; lstat a = ENOENT
without permission it is EACCES
    mkdir d; chown d 1001 1001; ada@chmod d 0444; ada@symlink x d/a = EACCES; ada@chmod d 0555
    ada@symlink x d/a = EACCES; ada@chmod d 0755; ada@symlink x d/a
links that lead in a circle are ELOOP
    symlink a b; symlink b a; symlink x a/y = ELOOP
what exists is EEXIST
    make {any} a; symlink x a = EEXIST
it may lead over directories, up and from the root
    mkdir d; mkdir d/e; make FILE d/e/f; write d/e/f deep; symlink ../d/e s; symlink d/e t; read t/f = deep
    symlink ../../d/e/f d/e/u; read d/e/u = deep; symlink / r; stat r kind = DIRECTORY
a slash behind it means the directory
    mkdir d; symlink d s; lstat s/ kind = DIRECTORY; make FILE a; symlink a t; lstat t/ = ENOTDIR
what is no link has no target
    make {plain} a; readlink a = EINVAL
""",
    "unlink": """
the name is gone
    make {other} a; unlink a; lstat a = ENOENT; list . = nothing
another name stays
    make {other} a; link a b; note b; unlink a; lstat b links = 1; lstat b kind = {other}; moved b = c
times of the directory move
    mkdir d; make {other} d/a; note d; unlink d/a; moved d = mc
a refused one moves nothing
    mkdir d; make FILE d/a; note d; note d/a; bob@unlink d/a = EACCES; moved d = nothing; moved d/a = nothing
a part of the way that is a file is ENOTDIR
    make FILE a; unlink a/b = ENOTDIR
a name of 256 bytes is too long
    make FILE $255; unlink $255; unlink $256 = ENAMETOOLONG
what is not there is ENOENT
    unlink a = ENOENT; unlink a/b = ENOENT; make FILE a; unlink a; unlink a = ENOENT
without search permission on the way it is EACCES
    mkdir d; chown d 1001 1001; ada@make FILE d/a; ada@chmod d 0644; ada@unlink d/a = EACCES; ada@chmod d 0755
    ada@unlink d/a
without write permission on the directory it is EACCES
    mkdir d; chown d 1001 1001; ada@make FILE d/a; ada@chmod d 0555; ada@unlink d/a = EACCES; ada@chmod d 0755
    ada@unlink d/a
permissions of the file itself do not count
    mkdir d; chown d 1001 1001; make FILE d/a 0000; ada@unlink d/a; list d = nothing
links that lead in a circle are ELOOP
    symlink a b; symlink b a; unlink a/x = ELOOP; unlink a; list . = b
a directory is not for unlink
    mkdir d; unlink d = EISDIR|EPERM; lstat d = DIRECTORY; unlink d/ = EISDIR|EPERM|ENOTDIR
in a sticky directory only owners take away
    mkdir d; chmod d 1777; make {other} d/a; lchown d/a 1001 1001; bob@unlink d/a = EPERM|EACCES
    ada@unlink d/a
    ada@make FILE d/b; ada@unlink d/b; list d = nothing
the owner of a sticky directory may
    mkdir d; chown d 1002 1002; chmod d 1777; ada@make FILE d/a; bob@unlink d/a; list d = nothing
an open file stays until it is closed
    hold h a RDWR,CREAT; hwrite h text; unlink a; lstat a = ENOENT; hread h = text; hstat h links = 0; hwrite h more
    hread h = textmore; drop h
a new file of the same name is another one
    hold h a RDWR,CREAT; hwrite h old; unlink a; make FILE a; write a new; hread h = old; read a = new
a symbolic link goes, its target stays
    make FILE a; symlink a s; unlink s; lstat a = FILE; mkdir d; symlink d t; unlink t; lstat d = DIRECTORY
a slash behind the name of a file is ENOTDIR
    make FILE a; unlink a/ = ENOTDIR; lstat a = FILE
""",
    "utimes": """
both times become what is asked for
    make {plain} a; utimes a 1000 2000; stat a accessed = 1000; stat a modified = 2000
one of the two can stay
    make FILE a; utimes a 1000 2000; utimes a 3000 -; stat a accessed = 3000; stat a modified = 2000; utimes a - 5
    stat a accessed = 3000; stat a modified = 5
the time of change is now
    make {plain} a; note a; utimes a 1 1; moved a = c
they follow a symbolic link or not
    make FILE a; symlink a s; utimes s 7 8; stat a modified = 8; lutimes s 9 10; lstat s modified = 10; stat a modified = 8
the owner and the privileged may set them
    make FILE a; chown a 1001 1001; ada@utimes a 5 6; stat a modified = 6; utimes a 7 8; stat a modified = 8
nobody else may set them, even who may write
    make FILE a; chown a 1001 1001; chmod a 0666; bob@utimes a 5 6 = EPERM
who may write may set them to now
    make FILE a; chown a 1001 1001; utimes a 5 6; chmod a 0644; bob@touch a = EACCES; stat a modified = 6; chmod a 0666
    note a; bob@touch a; moved a = amc
what is not there is ENOENT
    utimes a 1 1 = ENOENT; utimes a/b 1 1 = ENOENT; make FILE a; utimes a/b 1 1 = ENOTDIR
links that lead in a circle are ELOOP
    symlink a b; symlink b a; utimes a 1 1 = ELOOP
a time before 2038 and the last of 32 bits are kept
    make FILE a; utimes a 2147483647 2147483646; stat a accessed = 2147483647; stat a modified = 2147483646
    utimes a 0 0; stat a modified = 0
without search permission on the way it is EACCES
    mkdir d; chown d 1001 1001; ada@make FILE d/a; ada@chmod d 0644; ada@utimes d/a 1 1 = EACCES
""",
    "paths": """
dots and slashes are on the way
    mkdir d; mkdir d/e; make FILE d/e/f; stat d/./e//f = FILE; stat d/../d/e/../e/f = FILE; stat d/e/f/. = ENOTDIR
    stat d/e/f/.. = ENOTDIR; stat ./d/e/ = DIRECTORY
above the root is the root
    stat /../.. = DIRECTORY; stat /. = DIRECTORY; stat / = DIRECTORY; stat // = DIRECTORY
a path of 4096 bytes is too long
    stat $4096 = ENAMETOOLONG; stat $4095 = ENAMETOOLONG; stat $255/$255 = ENOENT
listing needs read permission, and using a name search permission
    mkdir d; make FILE d/a; chown d 1001 1001; chmod d 0400; ada@list d = a; ada@stat d/a = EACCES; chmod d 0100
    ada@list d = EACCES; ada@stat d/a = FILE; chmod d 0050; ada@list d = EACCES
listing is for directories
    make {other} a; list a = ENOTDIR|ENOENT
""",
}
