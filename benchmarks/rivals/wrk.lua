-- Sends the requests of a file in turn, with the number of the request in place of every mark: no
-- two are alike. They are counted for all connections together, as wrk runs with one thread, from
-- the number that comes after the file.

local posts = {}
local count = 0

function init(args)
   count = tonumber(args[2])
   local file = assert(io.open(args[1], "rb"))
   for post in file:read("*a"):gmatch("[^\2]+") do
      local pieces = {}
      for piece in post:gmatch("[^\1]+") do
         pieces[#pieces + 1] = piece
         pieces[#pieces + 1] = ""
      end
      pieces[#pieces] = nil -- after the last piece there is no mark
      posts[#posts + 1] = pieces
   end
   file:close()
end

function request()
   count = count + 1
   local pieces = posts[count % #posts + 1]
   local number = string.format("%012x", count)
   for place = 2, #pieces, 2 do
      pieces[place] = number
   end
   return table.concat(pieces)
end
